"""A request of the web UI's API: each of its fields changes the pictures, or is refused by its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from scheduler.api.access import Caller
from scheduler.api.compat.bodies import ClientBody
from scheduler.api.compat.spelling import spelled
from scheduler.api.compat.webui_controlnet import Canvas, conditioning
from scheduler.api.compat.webui_settings import WebUISettings, read_settings
from scheduler.api.context import ApiContext
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from storage.errors import BadSpecification
from storage.spec import webui_prompts, webui_schedules
from storage.spec.aliases import known_as
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.explanations import shown
from storage.spec.foreign_samplers import of_webui
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import MAX_PROMPT_CHARACTERS, Request
from storage.spec.registry import Registry

_MOST_PICTURES = 100
#: Field of a specification → its name in the web UI.
FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "model": "sd_model_checkpoint",
    "sampler": "sampler_name",
    "loras": "prompt",
    "clip_skip": "CLIP_stop_at_last_layers",
    "control_images": "alwayson_scripts",
    "controlnet_conditioning_scale": "alwayson_scripts",
    "control_guidance_start": "alwayson_scripts",
    "control_guidance_end": "alwayson_scripts",
}
_NONE: tuple[Any, ...] = (None, "", [], {}, False, 0)
#: Fields that would change a picture → their values that change nothing, and what to do instead.
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "enable_hr": (_NONE, "a second pass in a larger size is not supported; ask for the final size"),
    "firstpass_image": (_NONE, "a second pass in a larger size is not supported"),
    "script_name": ((*_NONE, "None"), "scripts are not supported"),
    "styles": (_NONE, "there are no styles; write the words into the prompt"),
    "subseed_strength": ((*_NONE, -1), "variations of a seed are not supported"),
    "seed_resize_from_h": ((*_NONE, -1), "seeds of another size are not supported"),
    "seed_resize_from_w": ((*_NONE, -1), "seeds of another size are not supported"),
    "restore_faces": (_NONE, "there is no face restoration"),
    "tiling": (_NONE, "pictures that repeat seamlessly are not supported"),
    "do_not_save_samples": (_NONE, "every picture is kept, until `farm purge` removes it"),
    "s_min_uncond": (_NONE, "guidance at every step is supported alone"),
    "s_churn": (_NONE, "not supported by the samplers"),
    "s_tmin": (_NONE, "not supported by the samplers"),
    "s_tmax": ((*_NONE, float("inf"), 999), "not supported by the samplers"),
    "s_noise": ((None, 1), "not supported by the samplers"),
    "refiner_checkpoint": ((*_NONE, "None"), "a second model is not supported"),
    "comments": (_NONE, "a render's notes are its labels, in POST /v1/renders"),
    "distilled_cfg_scale": ((*_NONE, 3.5), "models with distilled guidance are not supported"),
    "force_task_id": (_NONE, "progress is told by GET /sdapi/v1/progress"),
    "infotext": (_NONE, "give its settings as fields"),
}
#: Fields that change nothing without another, which is refused → the values that clients send all the same.
_IDLE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "denoising_strength": ((*_NONE, 0.7, 0.75, 0.5), "enable_hr"),
    "firstphase_width": (_NONE, "enable_hr"),
    "firstphase_height": (_NONE, "enable_hr"),
    "hr_scale": ((*_NONE, 2, 1.5), "enable_hr"),
    "hr_upscaler": ((*_NONE, "Latent", "None"), "enable_hr"),
    "hr_second_pass_steps": (_NONE, "enable_hr"),
    "hr_resize_x": (_NONE, "enable_hr"),
    "hr_resize_y": (_NONE, "enable_hr"),
    "hr_checkpoint_name": ((*_NONE, "Use same checkpoint"), "enable_hr"),
    "hr_sampler_name": ((*_NONE, "Use same sampler"), "enable_hr"),
    "hr_scheduler": ((*_NONE, "Use same scheduler"), "enable_hr"),
    "hr_prompt": (_NONE, "enable_hr"),
    "hr_negative_prompt": (_NONE, "enable_hr"),
    "hr_additional_modules": ((*_NONE, ["Use same choices"]), "enable_hr"),
    "hr_cfg": ((*_NONE, 1), "enable_hr"),
    "hr_distilled_cfg": ((*_NONE, 3.5), "enable_hr"),
    "refiner_switch_at": ((*_NONE, 1, 0.8), "refiner_checkpoint"),
    "script_args": (_NONE, "script_name"),
    "subseed": ((*_NONE, -1), "subseed_strength"),
}
#: Fields that say nothing of the pictures: every one is kept, and there are no grids.
_BESIDE = frozenset({"save_images", "do_not_save_grid"})
#: The web UI's default for samplers of the ancestral kind, which use it here too.
_ANCESTRAL_ETA = 1.0
#: Text of more bytes may have more tokens than one chunk, in which a prompt is drawn otherwise.
_SURELY_ONE_CHUNK = 75


class TextToImage(ClientBody):
    """A request of the web UI's API.

    Its other fields are accepted with the values that change nothing, and refused with any other.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red star", "steps": 20, "cfg_scale": 5, "batch_size": 2}]},
    )

    prompt: str = Field(
        "",
        max_length=MAX_PROMPT_CHARACTERS,
        description="In the web UI's language: `(red:1.3)`, `[red:blue:0.5]`, `BREAK`, `AND`, `<lora:ALIAS:0.8>`.",
    )
    negative_prompt: str = Field(
        "", max_length=MAX_PROMPT_CHARACTERS, description="What not to draw, in the web UI's language."
    )
    seed: Annotated[int, Field(ge=-1, description="-1: random.")] = -1
    sampler_name: str | None = Field(None, description="By the web UI's name; null: the model's own.")
    sampler_index: str | None = Field(None, description="As `sampler_name`, where that is left out.")
    scheduler: str | None = Field(None, description="The schedule of noise levels; Automatic: the sampler's usual one.")
    batch_size: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = Field(1, description="Pictures at once.")
    n_iter: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = Field(1, description="How often so many.")
    steps: int = Field(50, description="Denoising steps.")
    cfg_scale: float = Field(7.0, description="Guidance scale.")
    width: int | None = Field(None, description="In pixels; null: the model's own.")
    height: int | None = Field(None, description="In pixels; null: the model's own.")
    clip_skip: int | None = Field(None, description="As the setting `CLIP_stop_at_last_layers`.")
    eta: Annotated[float | None, Field(description="Only for DDIM; 1 for others.")] = None
    disable_extra_networks: bool = Field(False, description="Leave the LoRAs in the prompt off.")
    send_images: bool = Field(True, description="Whether the answer has the pictures.")
    override_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="`sd_model_checkpoint`, `CLIP_stop_at_last_layers`, `samples_format` and `jpeg_quality`.",
    )
    override_settings_restore_afterwards: bool = Field(
        True, description="False: they stay, as if set by POST /sdapi/v1/options."
    )
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict, description="Only `controlnet` is supported.")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Hold what a request asks for: its order, and the form of its pictures."""

    order: Order
    settings: WebUISettings


def wanted(context: ApiContext, caller: Caller, body: TextToImage, standing: Mapping[str, Any]) -> Wanted:
    """Return what a body asks for; `standing`: the caller's settings. Raises BadSpecification in the web UI's words."""
    n = body.batch_size * body.n_iter
    if n > _MOST_PICTURES:
        raise BadSpecification(f"batch_size: {n} pictures in one call; the maximum is {_MOST_PICTURES}")
    remarks = _remarks_on_others(body.model_extra or {})
    settings, more = read_settings(context.registry, {**standing, **_overridden(body)})
    remarks += [f"override_settings.{remark}" for remark in more]
    model = context.registry[settings.model or context.registry.default]
    sampler, more = of_webui(body.sampler_name or body.sampler_index, body.scheduler)
    remarks += more
    canvas = Canvas(body.width or model.width, body.height or model.height)
    control, more = conditioning(context, caller, body.alwayson_scripts, model, canvas)
    remarks += more
    if body.sampler_name and body.sampler_index not in (None, "", body.sampler_name):
        remarks.append(f"sampler_index: ignored; sampler_name says {body.sampler_name[:60]}")
    if body.cfg_scale < 1:
        remarks.append("cfg_scale: below 1 there is no guidance here; the web UI would steer to the negative prompt")
    if "#" in body.prompt + body.negative_prompt:
        remarks.append("prompt: from # to the end of its line it is a comment, and not drawn, as in the web UI")
    fields: dict[str, Any] = {
        "seed": None if body.seed < 0 else body.seed,
        "num_inference_steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "width": body.width,
        "height": body.height,
        "model": settings.model,
        "sampler": sampler,
        "eta": _eta(body, sampler or model.sampler),
        "clip_skip": _clip_skip(settings, model),
        **_words(context.registry, body, model),
        **control,
    }
    with spelled(FIELDS):
        request = Request.parse({name: value for name, value in fields.items() if value is not None})
    order = Order(requests=(SourcedRequest("", request),), pictures_each=n, remarks=tuple(remarks))
    return Wanted(order=order, settings=settings)


def _overridden(body: TextToImage) -> dict[str, Any]:
    """Return the settings that a body overrides. Raises BadSpecification if it says two things of one."""
    if body.clip_skip is None:
        return body.override_settings
    said = body.override_settings.get("CLIP_stop_at_last_layers")
    if said not in (None, body.clip_skip):
        raise BadSpecification(f"clip_skip: {body.clip_skip}, while CLIP_stop_at_last_layers is {said!r:.20}; give one")
    return {**body.override_settings, "CLIP_stop_at_last_layers": body.clip_skip}


def _remarks_on_others(given: Mapping[str, Any]) -> list[str]:
    """Return remarks on fields that change nothing. Raises BadSpecification for those that would change something."""
    remarks = []
    for name, value in given.items():
        if name in _BESIDE:
            continue
        if name in _IDLE:
            usual, other = _IDLE[name]
            if value not in usual:
                remarks.append(f"{name}: changes nothing without {other}, which is not supported")
            continue
        neutral, why = _REFUSED.get(name, (_NONE, "the farm does not have this field"))
        if value not in neutral:
            raise BadSpecification(f"{name}: {why} (given: {shown(value)})")
    return remarks


def _eta(body: TextToImage, sampler: str | None) -> float | None:
    """Return DDIM's η. The web UI's clients send 1 with every sampler, the ancestral ones' default."""
    if sampler == "ddim":
        return body.eta
    if body.eta not in (None, _ANCESTRAL_ETA):
        raise BadSpecification(f"eta: only the sampler DDIM supports it; leave it out, or 1 (given: {body.eta:g})")
    return None


def _clip_skip(settings: WebUISettings, model: Model) -> int | None:
    """Return how many layers to skip: the web UI counts from 1, and SDXL always stops at the last but one there."""
    skipped = settings.stop_at_last_layers - 1
    if isinstance(model, DiffusersModel) and (pipeline_of(model) or "").startswith("StableDiffusionXL"):
        if skipped > 1:
            raise BadSpecification(
                f"CLIP_stop_at_last_layers: {model.alias} is of SDXL's kind, which stops at the last layer but one"
            )
        return None
    # The web UI's default is none: then the model's own stays.
    return skipped or None


def _words(registry: Registry, body: TextToImage, model: Model) -> dict[str, Any]:
    """Return prompt, negative prompt and LoRAs, with the language to read them in. Raises BadSpecification."""
    prompt, loras = _read("prompt", webui_prompts.without_comments(body.prompt), registry)
    negative = webui_prompts.without_comments(body.negative_prompt)
    for name, text in (("prompt", prompt), ("negative_prompt", negative)):
        try:
            webui_prompts.check(text, negative=name == "negative_prompt")
        except ValueError as error:
            raise BadSpecification(f"{name}: {error}") from None
    if not _weighs(model):
        prompt, negative = _unweighted(model, prompt=prompt), _unweighted(model, negative_prompt=negative)
    fields: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    if loras and not body.disable_extra_networks:
        if not isinstance(model, DiffusersModel):
            raise BadSpecification(f"prompt: the model {model.alias} is simulated and has no LoRAs")
        fields["loras"] = loras
    if _weighs(model):
        long = max(len("".join(text.split()).encode()) for text in (prompt, negative)) > _SURELY_ONE_CHUNK
        marked = not (webui_prompts.is_plain(prompt) and webui_prompts.is_plain(negative))
        if marked or long or getattr(model, "prompt_weighting", None):
            fields["prompt_weighting"] = "webui"
    return fields


def _unweighted(model: Model, **named: str) -> str:
    """Return a text's letters for a model that cannot weigh words. Raises BadSpecification if it weighs some."""
    [(name, text)] = named.items()
    sections = webui_prompts.parse(text)
    if len(sections) > 1 or any(weight != 1.0 for _, weight in sections[0]):
        raise BadSpecification(f"{name}: the model {model.alias} cannot weigh words, as ( ), [ ] and BREAK ask for")
    if name == "prompt" and not webui_schedules.is_one(text):
        raise BadSpecification(f"{name}: the model {model.alias} cannot put prompts together, as AND and :1.2 ask for")
    return "".join(letters for letters, _ in sections[0])


def _read(name: str, text: str, registry: Registry) -> tuple[str, dict[str, float]]:
    try:
        prompt, scales = webui_prompts.take_loras(text)
    except ValueError as error:
        raise BadSpecification(f"{name}: {error}") from None
    known = {known_as(name, registry.loras): scale for name, scale in scales.items()}
    if len(known) < len(scales):
        raise BadSpecification(f"{name}: a LoRA is named twice; give it one weight")
    return prompt, known


def _weighs(model: Model) -> bool:
    if not isinstance(model, DiffusersModel):
        return False
    taken = taken_controls(model)
    return taken is None or "prompt_weighting" in taken
