"""What a pipeline is told beside a picture's own fields, in the words of its family (`storage/spec/profiles.toml`)."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from storage.spec.picture import Spec
from storage.spec.profiles import Profile, profile_of

_UNKNOWN_FAMILY = Profile()
#: Texts and lists are as the release of Diffusers has them that recipes name.
_OWN = "as Diffusers has it"


def profile_of_pipeline(pipeline: Any) -> Profile:
    """Return the profile of a pipeline's class; of an unknown family, what holds for most."""
    return profile_of(type(pipeline).__name__) or _UNKNOWN_FAMILY


def family_arguments(denoiser: Any, spec: Spec, takes: Collection[str]) -> dict[str, Any]:
    """Return arguments that say what was asked in the words of a pipeline that has others for it.

    None for those that must be left out.
    """
    profile = profile_of_pipeline(denoiser)
    found: dict[str, Any] = {name: value for name, value in profile.pinned.items() if name in takes}
    if profile.area_argument in takes:
        found[str(profile.area_argument)] = spec.width * spec.height
    if profile.guidance == "true_cfg":
        told = bool(denoiser.transformer.config.get("guidance_embeds"))
        found["true_cfg_scale"] = 1.0 if told else spec.guidance_scale
        if not told:
            found["guidance_scale"] = None
    if profile.guidance == "schedule":
        # Its default is a schedule of 48 steps; a scale beside any schedule is an error.
        found |= {"guidance_scale": None, "guidance_schedule": [spec.guidance_scale] * spec.num_inference_steps}
    own = denoiser.config.get("sample_sigmas") if "sigmas" in takes else None
    if own and len(own) != spec.num_inference_steps:
        # It would make as many steps as these are, whatever was asked for. So it draws where it has none of its own.
        found["sigmas"] = np.linspace(1.0, 1 / spec.num_inference_steps, spec.num_inference_steps).tolist()
    return found


def call_recipe(denoiser: Any, takes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says of a call beside the picture's fields: what is pinned, and what is Diffusers' own.

    Args:
        takes: the parameters of the call, by name.
    """
    profile = profile_of_pipeline(denoiser)
    found: dict[str, Any] = {name: value for name, value in profile.pinned.items() if name in takes}
    for name in (*profile.recorded, *(name for name in takes if name.startswith("pag_"))):
        own = getattr(denoiser, name, None)
        default = takes[name].default if name in takes else None
        value = default if default is not None else own
        if value is not None:
            found[name] = value if isinstance(value, bool | int | float) else _OWN
    if profile.lower_case:
        found["prompt"] = "in lower case"
    return {"call": found} if found else {}
