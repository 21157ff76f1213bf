"""Which models denoise by slots: pictures join and leave at every call of the model, each at a step of its own."""

from storage.spec.capabilities import pipeline_of
from storage.spec.models import Model, SimulatedModel

#: What these pipelines do between two calls of their UNet is known and done by the farm (`worker.rendering.slots`).
SLOT_PIPELINES = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLControlNetPipeline",
    }
)


def denoises_by_slots(model: Model) -> bool:
    """Tell whether a model's pictures may differ in steps, guidance and sampler and still be denoised together.

    Its workers may know better, and go batch by batch. False for a pipeline whose class is not known here: the
    registry's `pipeline` says it to machines without the weights.
    """
    if isinstance(model, SimulatedModel):
        return True
    return model.offload == "none" and pipeline_of(model) in SLOT_PIPELINES
