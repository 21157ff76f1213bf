"""What Fooocus, SwarmUI, NovelAI and InvokeAI before version 3 write into their pictures, as cells.

Only of finished pictures: as rows of a prompt file these are refused (`files.other_tools`), for much of what they say
is not done here. Sources: modules/meta_parser.py of Fooocus; Text2Image/T2IParamInput.cs of SwarmUI; the
parsers of sd-parsers 0.6.
"""

import re
from collections.abc import Mapping
from typing import Any

from scheduler.intake.files.columns import Row
from scheduler.intake.files.leftovers import Leftovers, kept
from storage.errors import BadSpecification
from storage.spec.aliases import alias_in, without_ending
from storage.spec.explanations import shown
from storage.spec.foreign_samplers import of_comfyui, sampler_of

_TWO_NUMBERS = re.compile(r"\D*(\d+)\D+(\d+)\D*")
#: NovelAI weights words by curly and square brackets, by 1.05 each.
_CURLY = re.compile(r"[{}\[\]]|-?\d*\.?\d+::")
#: InvokeAI before version 3 had the negative prompt within the prompt.
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
#: Fooocus's keys that shape the picture in its own way → values that change nothing.
_OF_FOOOCUS: Mapping[str, tuple[Any, ...]] = {
    "styles": ("[]", [], ""),
    "prompt_expansion": ("",),
    "sharpness": (0, "0"),
    "adm_guidance": ("",),
    "refiner_model": ("None", "", None),
    "freeu": ("",),
    "inpaint_mode": ("",),
}
_OF_NOVELAI: Mapping[str, tuple[Any, ...]] = {
    "cfg_rescale": (0, None),
    "uncond_scale": (0, 1, None),
    "sm": (False, None),
    "sm_dyn": (False, None),
    "dynamic_thresholding": (False, None),
    "strength": (None,),
    "reference_strength": (None,),
    "request_type": ("PromptGenerateRequest", None),
}


def of_parameters(said: Mapping[str, Any], left: Leftovers) -> tuple[str, Row]:
    """Read JSON that stands where the web UI has its text. Raises BadSpecification for what is neither of the two."""
    if isinstance(said.get("sui_image_params"), Mapping):
        return "SwarmUI", _of_swarmui(said, left)
    if "base_model" in said and "prompt" in said:
        return "Fooocus", _of_fooocus(said, left)
    raise BadSpecification("its text `parameters` is JSON of a program that is not known here")


def of_old_invokeai(said: Mapping[str, Any], left: Leftovers) -> Row:
    """Read InvokeAI's `sd-metadata`. Raises BadSpecification."""
    image = said.get("image")
    if not isinstance(image, Mapping):
        raise BadSpecification("its metadata of InvokeAI names no picture")
    taken = {name: image[name] for name in ("width", "height", "seed", "steps", "cfg_scale") if name in image}
    cells = {**taken, "model": said.get("model_weights")}
    prompts = image.get("prompt")
    listed = prompts if isinstance(prompts, list) else [prompts]
    parts = [one if isinstance(one, Mapping) else {"prompt": one or ""} for one in listed]
    text = ", ".join(str(one.get("prompt", "")) for one in parts)
    if any(one.get("weight", 1) != 1 for one in parts):
        left.not_done["weights of prompts"] = [one.get("weight") for one in parts]
    cells["prompt"] = " ".join(_IN_BRACKETS.sub(" ", text).split())
    cells["negative_prompt"] = ", ".join(one.strip() for one in _IN_BRACKETS.findall(text) if one.strip())
    with kept(left, "sampler"):
        cells["sampler"] = _named(image.get("sampler"))
    if image.get("type", "txt2img") != "txt2img":
        left.not_done["type"] = image["type"]
    read = (*taken, "prompt", "sampler", "type")
    left.unread |= {name: value for name, value in image.items() if name not in read}
    return _row(cells)


def of_novelai(said: Mapping[str, Any], description: str | None, left: Leftovers) -> Row:
    """Read NovelAI's comment; its prompt may stand beside it. Raises BadSpecification."""
    prompts = {"prompt": str(said.get("prompt") or description or ""), "negative_prompt": str(said.get("uc") or "")}
    for field, text in prompts.items():
        if _CURLY.search(text):
            left.not_done[f"weights of the {field.replace('_', ' ')}"] = "NovelAI's brackets are letters here"
    cells = {
        **prompts,
        "num_inference_steps": said.get("steps"),
        "guidance_scale": said.get("scale"),
        **{name: said.get(name) for name in ("width", "height", "seed")},
    }
    with kept(left, "sampler"):
        schedule = str(said.get("noise_schedule") or "native")
        cells["sampler"] = _named(said.get("sampler"), None if schedule == "native" else schedule)
    _keep_what_shapes(said, _OF_NOVELAI, left)
    read = (*cells, "uc", "steps", "scale", "noise_schedule", *_OF_NOVELAI)
    left.unread |= {name: value for name, value in said.items() if name not in read}
    return _row(cells)


def _of_swarmui(said: Mapping[str, Any], left: Leftovers) -> Row:
    image = dict(said["sui_image_params"])
    cells = {
        "prompt": image.pop("prompt", None),
        "negative_prompt": image.pop("negativeprompt", None),
        "num_inference_steps": image.pop("steps", None),
        "guidance_scale": image.pop("cfgscale", None),
        **{name: image.pop(name, None) for name in ("width", "height", "seed")},
    }
    if (distilled := image.pop("fluxguidancescale", None)) is not None:
        cells["guidance_scale"] = distilled
    if (model := image.pop("model", None)) is not None:
        cells["model"] = without_ending(str(model))
    names, weights = _listed(image.pop("loras", None)), _listed(image.pop("loraweights", None))
    with kept(left, "loras"):
        cells["loras"] = _loras(zip(names, weights or [1.0] * len(names), strict=False))
    with kept(left, "sampler"):
        if sampler := image.pop("sampler", None):
            cells["sampler"] = of_comfyui(str(sampler), str(image.pop("scheduler", "normal")))
    # What is left of it was set, and mostly changes the picture.
    beside = {"aspectratio", "swarm_version", "date", "generation_time"}
    left.unread |= {name: image.pop(name) for name in beside & image.keys()}
    left.not_done |= image
    return _row(cells)


def _of_fooocus(said: Mapping[str, Any], left: Leftovers) -> Row:
    size = _TWO_NUMBERS.fullmatch(str(said.get("resolution", "")))
    cells = {
        **{name: said.get(name) for name in ("prompt", "negative_prompt", "steps", "guidance_scale", "seed")},
        "model": without_ending(str(said["base_model"])),
        **({"width": size[1], "height": size[2]} if size else {}),
    }
    with kept(left, "loras"):
        loras = said.get("loras") or []
        if not isinstance(loras, list) or not all(isinstance(one, list) and len(one) > 1 for one in loras):
            raise BadSpecification(f"must be names and weights (given: {shown(loras)})")
        cells["loras"] = _loras(one[:2] for one in loras)
    with kept(left, "sampler"):
        if said.get("sampler"):
            cells["sampler"] = of_comfyui(str(said["sampler"]), str(said.get("scheduler", "normal")))
    if str(said.get("clip_skip", "")).isdecimal() and int(said["clip_skip"]) > 1:
        # It counts as the web UI does; for SDXL, 2 is what every picture has.
        left.unread["clip_skip"] = said["clip_skip"]
    _keep_what_shapes(said, _OF_FOOOCUS, left)
    read = (*cells, "base_model", "resolution", "scheduler", "clip_skip", *_OF_FOOOCUS)
    left.unread |= {name: value for name, value in said.items() if name not in read}
    return _row(cells)


def _keep_what_shapes(said: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], left: Leftovers) -> None:
    left.not_done |= {name: said[name] for name, nothing in known.items() if name in said and said[name] not in nothing}


def _named(sampler: Any, schedule: str | None = None) -> str | None:
    """Return our name of a sampler in k-diffusion's spelling. Raises BadSpecification if there is none."""
    if not sampler:
        return None
    try:
        return sampler_of(" ".join(filter(None, [str(sampler), schedule])))
    except BadSpecification as error:
        raise BadSpecification(f"{sampler} {error}") from None


def _loras(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, weight in pairs:
        alias = alias_in(without_ending(str(name)))
        if alias in found:
            raise BadSpecification(f"the LoRA {name} is named twice")
        found[alias] = float(weight) if isinstance(weight, str) and _is_number(weight) else weight
    return found


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.?\d+", text) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [part for part in str(value or "").split(",") if part]


def _row(cells: Mapping[str, Any]) -> Row:
    """Return a row of what is there; numbers may be written as text."""
    numbers = {"seed", "width", "height", "steps", "num_inference_steps", "guidance_scale", "cfg_scale"}
    read: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell is None or cell in ("", {}):
            continue
        whole = isinstance(cell, str) and name in numbers and _is_number(cell)
        read[name] = (float(cell) if "." in cell else int(cell)) if whole else cell
    return Row("", read)
