"""The API of AUTOMATIC1111's web UI: `POST /sdapi/v1/txt2img` and what its clients call beside it."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from scheduler.api.access import Caller, CanRead, CanSubmit
from scheduler.api.compat.pictures import as_base64, encoded, rendered
from scheduler.api.compat.spelling import spelled
from scheduler.api.context import ApiContext, Context
from scheduler.api.orders import hash_of
from scheduler.api.parameters import IdempotencyKey
from scheduler.api.problems import responses_in
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from scheduler.intake.uploads import check_image
from scheduler.results.outlook import outlook
from storage.errors import BadSpecification
from storage.objects.inputs import put_input
from storage.renders.views import JobView
from storage.rules.states import Priority
from storage.spec.infotext import infotext
from storage.spec.models import Model
from storage.spec.picture import SAMPLERS, Request

#: Longer than any client waits.
_SECONDS = 3600.0
_MOST_PICTURES = 100
#: Field of a specification → its name in the web UI.
_FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "model": "sd_model_checkpoint",
    "sampler": "sampler_name",
    "control_images": "alwayson_scripts",
    "controlnet_conditioning_scale": "alwayson_scripts",
    "control_guidance_start": "alwayson_scripts",
    "control_guidance_end": "alwayson_scripts",
}
#: Fields without effect unless `enable_hr` or a script is on, which are refused; and saving, which happens anyway.
_NOTHING = frozenset({"denoising_strength", "firstphase_width", "firstphase_height", "save_images", "script_args"})
#: Default values of clients.
_NEUTRAL = {
    "subseed": -1,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "s_noise": 1,
    "override_settings_restore_afterwards": True,
}
#: The web UI's default for ancestral samplers, which use it here too.
_ANCESTRAL_ETA = 1.0
#: Fields of a ControlNet unit that are not supported → their neutral values.
_OF_UNITS = {
    "module": (None, "none", "None", ""),
    "mask": (None, ""),
    "control_mode": (None, 0, "Balanced", ""),
}
#: Other names of samplers.
_ALIASES = {"plms": "pndm", "dpm++ 2m sde": "dpm++ sde"}


class TextToImage(BaseModel):
    """A request of the web UI's API. Unsupported fields are ignored, with a remark in `info`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red star", "steps": 20, "cfg_scale": 5, "batch_size": 2}]},
    )

    prompt: str = ""
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=-1, description="-1: random.")] = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = 1
    n_iter: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int | None = None
    height: int | None = None
    eta: Annotated[float | None, Field(description="Only for DDIM; otherwise ignored, with a remark.")] = None
    script_name: str | None = Field(None, description="Not supported.")
    enable_hr: Literal[False] = Field(False, description="Not supported: ask for the final size.")
    send_images: bool = True
    override_settings: dict[str, Any] = Field(
        default_factory=dict, description="Only `sd_model_checkpoint` is supported."
    )
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict, description="Only `controlnet` is supported.")


class TextToImageAnswer(BaseModel):
    images: list[str] = Field(description="PNG, base64.")
    parameters: dict[str, Any]
    info: str = Field(description="JSON: seeds, infotexts, other gallery metadata, and `remarks`.")


class WebUIError(BaseModel):
    error: str
    detail: str
    body: str
    errors: str


router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=responses_in(WebUIError))


@router.post("/txt2img")
def text_to_image(
    context: Context, body: TextToImage, caller: CanSubmit, idempotency_key: IdempotencyKey = None
) -> TextToImageAnswer:
    """Render, wait, and return the pictures: for clients of the web UI."""
    terms = Terms(
        priority=Priority.INTERACTIVE,
        idempotency_key=idempotency_key,
        request_hash=hash_of(body.model_dump(mode="json")) if idempotency_key else None,
        watched=True,
    )
    with spelled(_FIELDS):
        order = _order(context, body, context.chosen_models.get(caller.owner))
        accepted, jobs = rendered(context, caller, order, terms, seconds=_SECONDS, interruptible=True)
    return TextToImageAnswer(
        images=[as_base64(encoded(context, job)) for job in jobs] if body.send_images else [],
        parameters=body.model_dump(mode="json"),
        info=json.dumps({**_info(body, jobs), "remarks": sorted(accepted.remarks)}),
    )


@router.get("/progress")
def get_progress(
    context: Context,
    caller: CanRead,
    skip_current_image: Annotated[
        bool, Query(description="There are no previews: pictures are decoded at the end.")
    ] = True,
) -> dict[str, Any]:
    """Return the progress of the caller's oldest `txt2img` that is waited for; of nothing else."""
    told = _progress(context, caller)
    return told if skip_current_image else {**told, "textinfo": "no previews: pictures are decoded at the end"}


@router.post("/interrupt")
def interrupt(context: Context, caller: CanSubmit) -> dict[str, Any]:
    """Cancel the caller's oldest `txt2img` that is waited for; renders of other doors are left alone."""
    waited = context.waits.of(caller.owner)
    for render_id in waited[:1]:
        context.jobs.cancel(render_id)
    return {} if waited else {"remarks": ["nothing to interrupt: no txt2img is waited for"]}


@router.get("/sd-models")
def list_checkpoints(context: Context, _caller: CanRead) -> list[dict[str, Any]]:
    """List the registered models."""
    return [_model(model) for model in context.registry.models.values()]


@router.get("/samplers")
def list_samplers(_caller: CanRead) -> list[dict[str, Any]]:
    """List the samplers."""
    return [{"name": name, "aliases": [key], "options": {}} for key, name in SAMPLERS.items()]


@router.get("/scripts")
def list_scripts(_caller: CanRead) -> dict[str, list[str]]:
    """List the supported extensions."""
    return {"txt2img": ["controlnet m2m"], "img2img": []}


@router.get("/options")
def get_options(context: Context, caller: CanRead) -> dict[str, Any]:
    """Return the caller's model for requests that name none."""
    return {
        "sd_model_checkpoint": context.chosen_models.get(caller.owner, context.registry.default),
        "samples_format": "png",
    }


@router.post("/options")
def set_options(context: Context, wanted: dict[str, Any], caller: CanSubmit) -> dict[str, Any]:
    """Set the caller's model for requests that name none; other options are ignored, with remarks."""
    if "sd_model_checkpoint" in wanted:
        with spelled(_FIELDS):
            context.chosen_models[caller.owner] = _alias(context, wanted["sd_model_checkpoint"])
    ignored = sorted(wanted.keys() - {"sd_model_checkpoint"})
    return {"remarks": [f"{name}: ignored; not supported by the farm" for name in ignored]} if ignored else {}


def _order(context: ApiContext, body: TextToImage, chosen: str | None) -> Order:
    """Return what a body asks for. Raises BadSpecification."""
    n = body.batch_size * body.n_iter
    if n > _MOST_PICTURES:
        raise BadSpecification(f"batch_size: {n} pictures in one call; the maximum is {_MOST_PICTURES}")
    if body.script_name:
        raise BadSpecification(f"script_name: scripts are not supported (given: {body.script_name[:40]!r})")
    named = body.override_settings.get("sd_model_checkpoint")
    model = _alias(context, named) if named is not None else chosen
    sampler, remarks = _sampler(body.sampler_name or body.sampler_index, body.scheduler)
    remarks += _remarks_on_ignored(body)
    eta = body.eta if sampler == "ddim" else None
    if body.eta not in (None, eta, _ANCESTRAL_ETA):
        remarks.append("eta: ignored; only the sampler DDIM takes it")
    conditioning, more = _conditioning(context, body.alwayson_scripts)
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "seed": None if body.seed < 0 else body.seed,
        "num_inference_steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "width": body.width,
        "height": body.height,
        "model": model,
        "sampler": sampler,
        "eta": eta,
        **conditioning,
    }
    request = Request.parse({name: value for name, value in fields.items() if value is not None})
    return Order(requests=(SourcedRequest("", request),), pictures_each=n, remarks=(*remarks, *more))


def _remarks_on_ignored(body: TextToImage) -> list[str]:
    """Return a remark on each unsupported field that asks for something."""
    given = {name: value for name, value in (body.model_extra or {}).items() if not name.startswith("hr_")}
    asking = [name for name, value in given.items() if value and name not in _NOTHING and value != _NEUTRAL.get(name)]
    options = [f"override_settings.{name}" for name in body.override_settings if name != "sd_model_checkpoint"]
    return [f"{name}: ignored; not supported by the farm" for name in (*asking, *options)]


def _alias(context: ApiContext, name: Any) -> str:
    """Return the alias of a model named by its alias or its title in `sd-models`."""
    alias = str(name).partition(" [")[0].removesuffix(".safetensors")
    if alias not in context.registry.models:
        known = ", ".join(context.registry.models)
        raise BadSpecification(f"model: no model named {alias[:60]!r}; registered models: {known}")
    return alias


def _sampler(name: str | None, schedule: str | None) -> tuple[str | None, list[str]]:
    """Return our sampler's name, and remarks.

    The web UI has the schedule of noise levels beside the sampler, and had it in the sampler's name.
    """
    schedule = (schedule or "automatic").lower()
    sampler = None if not name or name.lower() == "automatic" else _ALIASES.get(name.lower(), name.lower())
    if sampler is not None and schedule == "karras" and f"{sampler} karras" in SAMPLERS:
        return f"{sampler} karras", []
    ignored = schedule != "automatic" and not (sampler or "").endswith(f" {schedule}")
    return sampler, ["scheduler: ignored; this schedule is not supported for the sampler"] if ignored else []


def _conditioning(context: ApiContext, scripts: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of ControlNet's units, as its extension has them, and remarks.

    Raises BadSpecification for other extensions that are used.
    """
    units: list[Mapping[str, Any]] = []
    for name, script in scripts.items():
        args = script.get("args", []) if isinstance(script, Mapping) else []
        if name.lower() == "controlnet":
            units = [unit for unit in args if isinstance(unit, Mapping) and unit.get("enabled", True)]
        elif any(arg not in (False, None, [], {}) for arg in args):
            raise BadSpecification(f"alwayson_scripts: the extension {name} is not supported")
    if not units:
        return {}, []
    fields = {
        "control_images": [_image(context, unit) for unit in units],
        "controlnet_conditioning_scale": [float(unit.get("weight", 1.0)) for unit in units],
        "control_guidance_start": [float(unit.get("guidance_start", 0.0)) for unit in units],
        "control_guidance_end": [float(unit.get("guidance_end", 1.0)) for unit in units],
    }
    ignored = {
        name for unit in units for name, as_it_is in _OF_UNITS.items() if unit.get(name, as_it_is[0]) not in as_it_is
    }
    return fields, [
        f"alwayson_scripts: ControlNet's {name} is ignored; not supported by the farm" for name in sorted(ignored)
    ]


def _image(context: ApiContext, unit: Mapping[str, Any]) -> str:
    given = unit.get("image") or unit.get("input_image") or ""
    text = given.get("image", "") if isinstance(given, Mapping) else str(given)
    try:
        data = base64.b64decode(text.rpartition(",")[2], validate=True)
        check_image(data)
    except ValueError as error:
        raise BadSpecification(f"alwayson_scripts: ControlNet's image: {error}") from None
    return put_input(context.objects, data)


def _info(body: TextToImage, jobs: Sequence[JobView]) -> dict[str, Any]:
    first = jobs[0].spec
    seeds = [job.spec.seed for job in jobs]
    return {
        "prompt": first.prompt,
        "all_prompts": [job.spec.prompt for job in jobs],
        "negative_prompt": first.negative_prompt,
        "all_negative_prompts": [job.spec.negative_prompt for job in jobs],
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(jobs),
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": SAMPLERS.get(first.sampler or ""),
        "cfg_scale": first.guidance_scale,
        "steps": first.num_inference_steps,
        "batch_size": body.batch_size,
        "sd_model_name": first.model,
        "index_of_first_image": 0,
        "infotexts": [infotext(job.spec, {}) for job in jobs],
        "styles": [],
        "job_timestamp": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
        "clip_skip": first.clip_skip or 1,
    }


def _progress(context: ApiContext, caller: Caller) -> dict[str, Any]:
    share, left, job, total = 0.0, 0.0, "", 0
    for render_id in context.waits.of(caller.owner)[:1]:
        render = context.views.render(render_id)
        running = context.views.progress(render.id)
        share = (render.total - render.remaining + sum(running.values())) / render.total
        left, job, total = (
            outlook(context.services, render)["seconds_left"] or 0.0,
            render.id,
            render.total,
        )
    return {
        "progress": round(share, 4),
        "eta_relative": left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": job,
            "job_count": total,
            "job_timestamp": "",
            "job_no": 0,
            "sampling_step": 0,
            "sampling_steps": 0,
        },
        "current_image": None,
        "textinfo": None,
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "title": model.alias,
        "model_name": model.alias,
        "hash": None,
        "sha256": None,
        "filename": getattr(model, "source", model.kind),
        "config": None,
    }


def error(status: int, detail: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return an error in the form of the web UI."""
    del fields  # the words name them
    return {"error": "HTTPException" if status < 500 else "ServerError", "detail": detail, "body": "", "errors": ""}
