"""The fields of the form to submit: those that a model takes, with their limits and its defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from fastapi import File, Form, UploadFile

from scheduler.api.page.words import number
from scheduler.api.response_models import ModelAnswer
from storage.errors import BadSpecification
from storage.spec.picture import Request
from storage.spec.sampler_names import SAMPLERS

_Text = Annotated[str, Form()]

#: Of the field's name: what it is called. Those of every model first, then controls that only some take.
_LABELS = {
    "width": "Width",
    "height": "Height",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance scale",
    "seed": "Seed",
}
_CONTROLS = {
    "negative_prompt": "Negative prompt",
    "sampler": "Sampler",
    "eta": "η (DDIM)",
    "clip_skip": "Clip skip",
    "prompt_weighting": "Prompt weighting",
    "long_prompts": "Long prompts",
    "loras": "LoRAs",
    "control_images": "Control images",
    "controlnet_conditioning_scale": "ControlNet scale",
    "control_guidance_start": "ControlNet start",
    "control_guidance_end": "ControlNet end",
    "guess_mode": "Guess mode",
    "prior_num_inference_steps": "Prior steps",
    "prior_guidance_scale": "Prior guidance",
    "original_size": "Original size",
    "crops_coords_top_left": "Crop",
    "target_size": "Target size",
    "prompt_embeds": "Embeddings",
}
_WHOLE = frozenset(
    {"width", "height", "num_inference_steps", "seed", "n", "random", "clip_skip", "prior_num_inference_steps"}
)
_NUMBERS = frozenset({"guidance_scale", "eta", "prior_guidance_scale"})
#: What the form says of itself, not of the order.
_OF_THE_FORM = frozenset({"once", "checked", "read_as", "without_file", "look", "no_negative"})
#: How a prompt may be read.
READINGS = {
    "one": "one prompt",
    "lines": "a prompt on each line",
    "template": "a template on each line: a {red|blue} star",
}
#: Of sizes: no others are accepted.
_STEP_PIXELS = 8


@dataclass(frozen=True, kw_only=True)
class OrderFields:
    """What the form sends; an empty field was not filled in."""

    model: _Text = ""
    prompt: _Text = ""
    #: One of `READINGS`.
    read_as: _Text = "one"
    random: _Text = ""
    n: _Text = ""
    negative_prompt: _Text = ""
    #: None is meant, not the model's own.
    no_negative: _Text = ""
    width: _Text = ""
    height: _Text = ""
    num_inference_steps: _Text = ""
    guidance_scale: _Text = ""
    sampler: _Text = ""
    seed: _Text = ""
    eta: _Text = ""
    clip_skip: _Text = ""
    prompt_weighting: _Text = ""
    long_prompts: _Text = ""
    loras: _Text = ""
    control_images: _Text = ""
    controlnet_conditioning_scale: _Text = ""
    control_guidance_start: _Text = ""
    control_guidance_end: _Text = ""
    guess_mode: _Text = ""
    prior_num_inference_steps: _Text = ""
    prior_guidance_scale: _Text = ""
    original_size: _Text = ""
    crops_coords_top_left: _Text = ""
    target_size: _Text = ""
    prompt_embeds: _Text = ""
    priority: _Text = ""
    name: _Text = ""
    note: _Text = ""
    not_before: _Text = ""
    window: _Text = ""
    timezone: _Text = ""
    manifest: _Text = ""
    #: The prompt file that was sent before is not meant any more.
    without_file: _Text = ""
    #: Nothing is to be checked: the fields of the chosen model are to be shown, with what is filled in.
    look: _Text = ""
    #: Drawn for each form: sent twice, it is accepted once.
    once: _Text = ""
    #: A hash of what was shown to be checked.
    checked: _Text = ""


@dataclass(frozen=True, kw_only=True)
class OrderFiles:
    """Files that come with the form."""

    prompt_file: Annotated[UploadFile | None, File()] = None
    control_file: Annotated[UploadFile | None, File()] = None


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field as the form shows it."""

    name: str
    label: str
    #: number, text, area, choice, check
    kind: str
    help: str
    default: str = ""
    least: str = ""
    most: str = ""
    step: str = ""
    options: tuple[str, ...] = ()


def fields_of(model: ModelAnswer, defaults: Mapping[str, Any]) -> list[Field]:
    """Return the fields that a model takes, with its defaults; where it is unknown here what it takes, all."""
    # What becomes of long prompts is decided before any pipeline: no list of what one takes has it.
    taken = None if model.takes is None else {*model.takes, *(["long_prompts"] if model.kind == "diffusers" else [])}
    controls = {name: words for name, words in _CONTROLS.items() if taken is None or name in taken}
    return [_field(name, label, defaults.get(name)) for name, label in (_LABELS | controls).items()]


def order_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the body that a form stands for. What is no number stays text, which the body refuses with a word.

    Raises BadSpecification for a prompt that is to be read in a way that there is not.
    """
    said = {name: text for name, text in fields.items() if text.strip() and name not in _OF_THE_FORM}
    # Browsers end lines so, whatever ended them before.
    texts = {name: text.replace("\r\n", "\n") for name, text in said.items()}
    body: dict[str, Any] = {name: _value(name, text) for name, text in texts.items()}
    if fields["no_negative"]:
        if "negative_prompt" in body:
            raise BadSpecification("negative_prompt: one is given, and none is asked for; leave out one of them")
        body["negative_prompt"] = ""
    if "prompt" in body and "manifest" not in body:
        body |= _prompts(body.pop("prompt"), fields["read_as"])
    return body


def lines_of(text: str) -> list[str]:
    """Return the prompts, or templates, that stand on lines of their own."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def _prompts(text: str, read_as: str) -> dict[str, Any]:
    if read_as not in READINGS:
        raise BadSpecification(f"read_as: {read_as[:20]!r} is not among {', '.join(READINGS)}")
    if read_as == "lines":
        return {"prompt": lines_of(text)}
    return {"templates": lines_of(text)} if read_as == "template" else {"prompt": text.strip("\n")}


def text_of(value: Any) -> str:
    """Return a value of a specification as its field shows it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={number(scale)}" for name, scale in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    if value is None or isinstance(value, bool):
        return "on" if value else ""
    # Zero is a value, too: guidance 0 is none, and seed 0 is one like others.
    return str(value)


def _value(name: str, text: str) -> Any:
    if name == "guess_mode":
        return True
    if name in _WHOLE or name in _NUMBERS:
        try:
            return int(text) if name in _WHOLE else float(text)
        except ValueError:
            return text
    return text if name in ("prompt", "negative_prompt", "note") else text.strip()


def _field(name: str, label: str, default: Any) -> Field:
    schema, words = _schemas()[name]
    options: tuple[str, ...] = ()
    if name == "sampler":
        options = tuple(SAMPLERS.values())
        default = SAMPLERS.get(default, default)
    elif "enum" in schema:
        options = tuple(str(one) for one in schema["enum"])
    step = _STEP_PIXELS if name in ("width", "height") else 1 if name in _WHOLE else "any"
    return Field(
        name=name,
        label=label,
        kind=_kind(name, options),
        help=words,
        default=number(default) if isinstance(default, float) else text_of(default),
        least=str(schema.get("minimum", "")),
        most=str(schema.get("maximum", "")),
        step=str(step),
        options=options,
    )


def _kind(name: str, options: tuple[str, ...]) -> str:
    if name == "guess_mode":
        return "check"
    if name == "negative_prompt":
        return "area"
    return "choice" if options else "number" if name in _WHOLE | _NUMBERS else "text"


@cache
def _schemas() -> Mapping[str, tuple[Mapping[str, Any], str]]:
    """Return, by a field's name, what JSON Schema says of its value, and its description."""
    return dict(_read_schemas())


def _read_schemas() -> Iterator[tuple[str, tuple[Mapping[str, Any], str]]]:
    for name, schema in Request.model_json_schema(by_alias=False)["properties"].items():
        kinds = schema.get("anyOf", [schema])
        yield name, (next(one for one in kinds if one.get("type") != "null"), schema.get("description", ""))
