"""What a model makes of `guidance_scale`: each architecture reads it in its own way, some not at all.

`tests/pipelines/test_architectures.py` compares it with what the pipelines of the installed Diffusers draw.
"""

from collections.abc import Iterator

from storage.spec.model_files import OwnConfiguration, own_configuration
from storage.spec.models import DiffusersModel
from storage.spec.picture import Spec
from storage.spec.profiles import family_of, profile_of


def is_guided(spec: Spec, pipeline: str | None, own: OwnConfiguration | None = None) -> bool:
    """Tell whether a picture is guided away from its negative prompt, which is not read otherwise.

    As far as the model's own files are here, also whether they leave it to guidance.
    """
    profile = profile_of(pipeline)
    return spec.guidance_scale > (profile.off if profile else 1) and not (own and is_told_its_guidance(own))


def is_told_its_guidance(own: OwnConfiguration) -> bool:
    """Tell whether a UNet was distilled to take the guidance scale as an embedding, as LCMs are."""
    return own.denoiser.get("time_cond_proj_dim") is not None


def guides_by_true_cfg(pipeline: str) -> bool:
    """Tell whether a pipeline's guidance scale is its argument `true_cfg_scale`."""
    profile = profile_of(pipeline)
    return profile is not None and profile.guidance == "true_cfg"


def guidance_remarks(spec: Spec, model: DiffusersModel) -> Iterator[str]:
    """Yield a remark on a guidance scale that a model ignores, or takes for none, as far as its own files are here."""
    own = own_configuration(model)
    profile = profile_of(model.pipeline or (own.pipeline if own else None))
    guided = profile is not None and profile.guidance in ("classifier-free", "true_cfg")
    # 0 is how Diffusers' examples write that there is none.
    if profile is not None and guided and 0 < spec.guidance_scale < profile.off:
        yield f"guidance_scale: below {profile.off:g} the model {model.alias} draws without guidance, as at 0"
    if own is not None and spec.guidance_scale != model.guidance_scale and ignores_guidance(own):
        yield f"guidance_scale: the model {model.alias} ignores it; it was distilled to draw without, or with one alone"


def ignores_guidance(own: OwnConfiguration) -> bool:
    """Tell whether a model draws the same with each guidance scale."""
    if family_of(own.pipeline) == "Flux2Klein":
        return bool(own.index.get("is_distilled"))
    profile = profile_of(own.pipeline)
    if profile is not None and profile.guidance == "embedded" and "unet" not in own.index:
        # What the class does where the file is silent.
        return not own.denoiser.get("guidance_embeds", family_of(own.pipeline) == "Flux2")
    return False
