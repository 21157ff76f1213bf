"""InvokeAI's metadata of a picture (versions 3 to 6): read if it was made of text alone, else refused by the field."""

import re
from collections.abc import Mapping
from typing import Any

from scheduler.intake.files.columns import Row
from scheduler.intake.files.leftovers import Leftovers, kept
from storage.errors import BadSpecification
from storage.spec.aliases import alias_in
from storage.spec.explanations import shown
from storage.spec.foreign_samplers import of_invokeai

#: Fields that would change the picture → their values that change nothing.
_NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            *("controlnets", "ipAdapters", "t2iAdapters", "control_layers", "regions", "ref_images", "init_image"),
            *("vae", "refiner_model", "hrf_enabled", "seamless_x", "seamless_y", "negative_style_prompt"),
        ),
        (None, [], {}, "", False),
    ),
    "cfg_rescale_multiplier": (None, 0),
    "generation_mode": (None, "txt2img", "sdxl_txt2img"),
}
#: Read below, or known to change nothing.
_READ = frozenset(
    {
        *("positive_prompt", "negative_prompt", "width", "height", "seed", "cfg_scale", "steps", "scheduler", "model"),
        *("clip_skip", "loras", "positive_style_prompt", *_NOT_DONE),
    }
)
#: What Compel, in whose language InvokeAI's prompts are, reads as more than letters.
_COMPEL = re.compile(r"(?<!\\)[()]|[\w\"][+-]+(?=[\s,.]|$)")


def is_metadata(value: Mapping[str, Any]) -> bool:
    """Return whether this is such metadata."""
    return "positive_prompt" in value and ("app_version" in value or "generation_mode" in value)


def row_of(where: str, value: Mapping[str, Any], leftovers: Leftovers | None = None) -> Row:
    """Read metadata; what says nothing of the picture becomes labels. Raises BadSpecification, unless it is kept."""
    for name, nothing in _NOT_DONE.items():
        if value.get(name) not in nothing:
            with kept(leftovers, name, value[name]):
                raise BadSpecification(
                    f"{name}: this part of InvokeAI's is not supported (given: {shown(value[name])})"
                )
    if value.get("positive_style_prompt") not in (None, "", value["positive_prompt"]):
        with kept(leftovers, "positive_style_prompt", value["positive_style_prompt"]):
            raise BadSpecification("positive_style_prompt: a prompt for SDXL's second encoder alone is not supported")
    prompts = {name: value.get(name) or "" for name in ("positive_prompt", "negative_prompt")}
    cells = {
        "prompt": prompts["positive_prompt"],
        "negative_prompt": prompts["negative_prompt"],
        "num_inference_steps": value.get("steps"),
        "guidance_scale": value.get("cfg_scale"),
        **{name: value.get(name) for name in ("width", "height", "seed")},
        "sampler": None,
        "model": _name(value.get("model")),
        # Layers that are skipped, as here; 0: none.
        "clip_skip": value.get("clip_skip") or None,
        "loras": None,
    }
    with kept(leftovers, "sampler"):
        cells["sampler"] = _sampler(value.get("scheduler"))
    with kept(leftovers, "loras"):
        cells["loras"] = _loras(value.get("loras") or [])
    if any(_COMPEL.search(str(text)) for text in prompts.values()):
        cells["prompt_weighting"] = "compel"
    labels = {name: cell for name, cell in value.items() if name not in _READ}
    return Row(where, {**{name: cell for name, cell in cells.items() if cell is not None}, **labels})


def _sampler(scheduler: Any) -> str | None:
    if scheduler is None:
        return None
    try:
        return of_invokeai(str(scheduler))
    except BadSpecification as error:
        raise BadSpecification(f"scheduler: {error}") from None


def _name(model: Any) -> str | None:
    """Return what a model is called: versions differ in the key."""
    if isinstance(model, Mapping):
        return str(model.get("name") or model.get("model_name") or "") or None
    return None if model is None else str(model)


def _loras(given: Any) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    if not isinstance(given, list):
        raise BadSpecification(f"loras: must be a list (given: {shown(given)})")
    for one in given:
        name = _name(one.get("model") or one.get("lora")) if isinstance(one, Mapping) else None
        if name is None or (alias := alias_in(name)) in found:
            raise BadSpecification(f"loras: each must have a name, once (given: {shown(one)})")
        found[alias] = one.get("weight", 1.0)
    return found or None
