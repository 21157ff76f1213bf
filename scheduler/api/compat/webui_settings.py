"""Settings of the web UI that a request may override, and that a caller may set for all of their requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.results.signed_urls import Format
from storage.errors import BadSpecification
from storage.spec.explanations import shown
from storage.spec.registry import Registry

_FORMATS: Mapping[str, Format] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
#: Settings that change a picture → their values that the farm does.
_AS_IT_IS: Mapping[str, tuple[Any, ...]] = {
    "sd_vae": ("Automatic", "None"),
    "eta_noise_seed_delta": (0,),
    "eta_ancestral": (1,),
    "eta_ddim": (0,),
    "randn_source": ("CPU",),
    "enable_emphasis": (True,),
    "emphasis": ("Original",),
    "comma_padding_backtrack": (20,),
    "pad_cond_uncond": (True, False),
    "sdxl_clip_l_skip": (False,),
    "s_noise": (1,),
    "enable_batch_seeds": (True,),
}
#: How settings begin that say nothing of the picture: where the web UI saves and shows it.
_BESIDE = (
    "samples_",
    "grid_",
    "save_",
    "outdir_",
    "live_preview",
    "show_progress",
    "return_",
    "do_not_",
    "export_",
    "webp_",
)

#: The settings that the farm has.
KEPT = frozenset({"sd_model_checkpoint", "CLIP_stop_at_last_layers", "samples_format", "jpeg_quality"})


@dataclass(frozen=True, kw_only=True)
class WebUISettings:
    """Hold the settings that the farm has."""

    model: str | None = None
    #: The web UI's number of the layer at which the text encoder stops, from the end.
    stop_at_last_layers: int = 1
    samples_format: Format = "png"
    jpeg_quality: int = 80


def read_settings(registry: Registry, given: Mapping[str, Any]) -> tuple[WebUISettings, list[str]]:
    """Return settings, and remarks. Raises BadSpecification for one that the farm does not have, by its name."""
    remarks = []
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "sd_model_checkpoint":
            fields["model"] = alias_of(registry, value)
        elif name == "CLIP_stop_at_last_layers":
            fields["stop_at_last_layers"] = _whole(name, value, 1, 12)
        elif name == "samples_format":
            fields["samples_format"] = _format(value)
        elif name == "jpeg_quality":
            fields["jpeg_quality"] = _whole(name, value, 1, 100)
        elif name.startswith(_BESIDE):
            remarks.append(f"{name}: ignored; every picture is kept, and returned, as it is")
        elif value not in _AS_IT_IS.get(name, ("", [], {})):
            raise BadSpecification(f"{name}: this setting is not supported by the farm (given: {shown(value)})")
    return WebUISettings(**fields), remarks


def alias_of(registry: Registry, name: Any) -> str:
    """Return the alias of a model named by its alias or its title in `sd-models`. Raises BadSpecification."""
    alias = str(name).partition(" [")[0].removesuffix(".safetensors").removesuffix(".ckpt")
    if alias not in registry.models:
        known = ", ".join(registry.models)
        raise BadSpecification(f"sd_model_checkpoint: no model named {alias[:60]!r}; registered models: {known}")
    return alias


def _whole(name: str, value: Any, least: int, most: int) -> int:
    # The range first: NaN and Infinity, which are in none, cannot be made whole.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= most
        or value != int(value)
    ):
        raise BadSpecification(f"{name}: must be a whole number from {least} to {most} (given: {shown(value)})")
    return int(value)


def _format(value: Any) -> Format:
    if str(value).lower() not in _FORMATS:
        raise BadSpecification(f"samples_format: must be png, jpg or webp (given: {shown(value)})")
    return _FORMATS[str(value).lower()]
