"""Which models denoise by slots: pictures join and leave at every call of the model, each at a step of its own."""

from storage.errors import BadSpecification
from storage.spec.capabilities import pipeline_of
from storage.spec.models import Model, SimulatedModel
from storage.spec.picture import Spec
from storage.spec.webui_schedules import is_composed

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


def check_composed(spec: Spec, model: Model) -> None:
    """Raise BadSpecification for a prompt that changes between steps, or is put together, of a model that cannot.

    What pipelines beside those with slots do between two calls of their UNet is their own.
    """
    if spec.prompt_weighting != "webui" or isinstance(model, SimulatedModel):
        return
    pipeline = pipeline_of(model)
    if pipeline is None or pipeline in SLOT_PIPELINES or not is_composed(spec.prompt, spec.negative_prompt):
        return
    raise BadSpecification(f"prompt: the model {model.alias} cannot draw it: {of_own_loop(pipeline)}")


def of_own_loop(pipeline: str) -> str:
    """Say what a pipeline without slots cannot do with prompts in the web UI's language."""
    return (
        f"{pipeline} has its own denoising loop, in which words cannot change between steps ([one:other:0.5], "
        "[one|other]) and prompts cannot be put together (AND, or a weight at the end)"
    )
