"""What a model makes of `guidance_scale`: each architecture reads it in its own way, some not at all.

`tests/pipelines/test_architectures.py` compares it with what the pipelines of the installed Diffusers draw.
"""

from collections.abc import Iterator

from storage.spec.model_files import OwnConfiguration, own_configuration
from storage.spec.models import DiffusersModel
from storage.spec.picture import Spec

#: Pipelines that add the scaled difference to the guided prediction: 0 is off, and 1 is what others call 2.
_OFF_AT_ZERO = ("ZImage", "Krea2")
#: Pipelines that are told the scale instead of guiding by it, unless their model was distilled for a single one.
_TOLD = ("Flux", "Flux2")
#: Pipelines whose argument for it is `true_cfg_scale`.
_TRUE_CFG = ("QwenImage",)


def is_guided(spec: Spec, pipeline: str | None) -> bool:
    """Tell whether a picture is guided away from its negative prompt, which is not read otherwise."""
    return spec.guidance_scale > (0 if (pipeline or "").startswith(_OFF_AT_ZERO) else 1)


def guides_by_true_cfg(pipeline: str) -> bool:
    """Tell whether a pipeline's guidance scale is its argument `true_cfg_scale`."""
    return pipeline.startswith(_TRUE_CFG)


def guidance_remarks(spec: Spec, model: DiffusersModel) -> Iterator[str]:
    """Yield a remark on a guidance scale that a model ignores, as far as its own files are here."""
    own = own_configuration(model)
    if own is not None and spec.guidance_scale != model.guidance_scale and ignores_guidance(own):
        yield f"guidance_scale: the model {model.alias} ignores it; it was distilled to draw without, or with one alone"


def ignores_guidance(own: OwnConfiguration) -> bool:
    """Tell whether a model draws the same with each guidance scale."""
    if own.pipeline.startswith("Flux2Klein"):
        return bool(own.index.get("is_distilled"))
    if own.pipeline.startswith(_TOLD):
        # What the class does where the file is silent.
        return not own.denoiser.get("guidance_embeds", own.pipeline.startswith("Flux2"))
    return False
