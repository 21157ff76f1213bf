"""The door of AUTOMATIC1111's clients: `POST /sdapi/v1/txt2img` and what they ask beside it."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from scheduler.api.access import Caller, Reader, Submitter
from scheduler.api.compat.orders import Order, as_base64, encoded, finish, pictures, place
from scheduler.api.context import ApiContext, Context
from scheduler.api.problems import responses_in
from scheduler.intake.uploads import check_image
from storage.errors import BadSpecification
from storage.objects.inputs import put_input
from storage.renders.views import JobView
from storage.spec.infotext import infotext
from storage.spec.models import Model
from storage.spec.picture import SAMPLERS, Request

#: Longer than any client waits.
_SECONDS = 3600.0
_MOST_PICTURES = 100
#: What others call the same sampler.
_ALIASES = {"plms": "pndm", "dpm++ 2m sde": "dpm++ sde"}


class TextToImage(BaseModel):
    """A request of the web UI's API. Fields that mean nothing here are passed over, as the web UI does."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"prompt": "a red star", "steps": 20, "cfg_scale": 5, "batch_size": 2}]},
    )

    prompt: str = ""
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=-1, description="-1: drawn.")] = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = 1
    n_iter: Annotated[int, Field(ge=1, le=_MOST_PICTURES)] = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int | None = None
    height: int | None = None
    eta: float | None = None
    enable_hr: Literal[False] = Field(False, description="Not here: ask for the size itself.")
    send_images: bool = True
    override_settings: dict[str, Any] = Field(default_factory=dict, description="`sd_model_checkpoint` is heeded.")
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict, description="`controlnet` is understood.")


class TextToImageAnswer(BaseModel):
    images: list[str] = Field(description="PNG, base64.")
    parameters: dict[str, Any]
    info: str = Field(description="JSON: seeds, infotexts, and what else galleries read.")


class WebUIError(BaseModel):
    error: str
    detail: str
    body: str
    errors: str


router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=responses_in(WebUIError))


@router.post("/txt2img")
def text_to_image(context: Context, body: TextToImage, caller: Submitter) -> TextToImageAnswer:
    """Render, wait for the pictures, and answer with them: for clients of the web UI."""
    n = body.batch_size * body.n_iter
    if n > _MOST_PICTURES:
        raise BadSpecification(f"batch_size: {n} pictures in one call; the most is {_MOST_PICTURES}")
    order = Order(
        requests=[_request(context, body, context.chosen_models.get(caller.owner))],
        n=n,
        seed=None if body.seed < 0 else body.seed,
        body=body.model_dump(mode="json"),
    )
    jobs = pictures(context, finish(context, place(context, caller, order), seconds=_SECONDS))
    return TextToImageAnswer(
        images=[as_base64(encoded(context, job)) for job in jobs] if body.send_images else [],
        parameters=body.model_dump(mode="json"),
        info=json.dumps(_info(body, jobs)),
    )


@router.get("/progress")
def get_progress(
    context: Context,
    caller: Reader,
    skip_current_image: Annotated[bool, Query(description="Without effect here.")] = True,
) -> dict[str, Any]:
    """How far the caller's newest render is."""
    del skip_current_image  # there is none to show: pictures are decoded at the end
    return _progress(context, caller)


@router.post("/interrupt")
def interrupt(context: Context, caller: Submitter) -> dict[str, Any]:
    """Cancel the caller's newest render, if it is not finished."""
    for render in context.views.renders(limit=1, owner=caller.owner):
        context.jobs.cancel(render.id)
    return {}


@router.get("/sd-models")
def list_checkpoints(context: Context, _caller: Reader) -> list[dict[str, Any]]:
    """The registered models."""
    return [_model(model) for model in context.registry.models.values()]


@router.get("/samplers")
def list_samplers(_caller: Reader) -> list[dict[str, Any]]:
    """The samplers that there are."""
    return [{"name": name, "aliases": [key], "options": {}} for key, name in SAMPLERS.items()]


@router.get("/scripts")
def list_scripts(_caller: Reader) -> dict[str, list[str]]:
    """Extensions whose part of a request is understood."""
    return {"txt2img": ["controlnet m2m"], "img2img": []}


@router.get("/options")
def get_options(context: Context, caller: Reader) -> dict[str, Any]:
    """The caller's model for requests that name none."""
    return {
        "sd_model_checkpoint": context.chosen_models.get(caller.owner, context.registry.default),
        "samples_format": "png",
    }


@router.post("/options")
def set_options(context: Context, wanted: dict[str, Any], caller: Submitter) -> dict[str, Any]:
    """Choose the caller's model for requests that name none; other options mean nothing here."""
    if "sd_model_checkpoint" in wanted:
        context.chosen_models[caller.owner] = _alias(context, wanted["sd_model_checkpoint"])
    return {}


def _request(context: ApiContext, body: TextToImage, chosen: str | None) -> Request:
    named = body.override_settings.get("sd_model_checkpoint")
    fields: dict[str, Any] = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "num_inference_steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "width": body.width,
        "height": body.height,
        "model": _alias(context, named) if named is not None else chosen,
        "sampler": _sampler(body.sampler_name or body.sampler_index, body.scheduler),
        **_conditioning(context, body.alwayson_scripts),
    }
    return Request.parse({name: value for name, value in fields.items() if value is not None})


def _alias(context: ApiContext, name: Any) -> str:
    """A model by its alias, or by its title in `sd-models`."""
    alias = str(name).partition(" [")[0].removesuffix(".safetensors")
    if alias not in context.registry.models:
        known = ", ".join(context.registry.models)
        raise BadSpecification(f"sd_model_checkpoint: none is registered as {alias[:60]!r}; known are {known}")
    return alias


def _sampler(name: str | None, schedule: str | None) -> str | None:
    """The web UI has the schedule of noise levels beside the sampler, and had it in the sampler's name."""
    if not name or name.lower() == "automatic":
        return None
    sampler = _ALIASES.get(name.lower(), name.lower())
    if schedule and schedule.lower() == "karras" and f"{sampler} karras" in SAMPLERS:
        return f"{sampler} karras"
    return sampler


def _conditioning(context: ApiContext, scripts: Mapping[str, Any]) -> dict[str, Any]:
    """ControlNet's units, as its extension has them. Raises BadSpecification for other extensions that are used."""
    units: list[Mapping[str, Any]] = []
    for name, script in scripts.items():
        args = script.get("args", []) if isinstance(script, Mapping) else []
        if name.lower() == "controlnet":
            units = [unit for unit in args if isinstance(unit, Mapping) and unit.get("enabled", True)]
        elif any(arg not in (False, None, [], {}) for arg in args):
            raise BadSpecification(f"alwayson_scripts: {name} is not known here")
    if not units:
        return {}
    return {
        "control_images": [_image(context, unit) for unit in units],
        "controlnet_conditioning_scale": [float(unit.get("weight", 1.0)) for unit in units],
        "control_guidance_start": [float(unit.get("guidance_start", 0.0)) for unit in units],
        "control_guidance_end": [float(unit.get("guidance_end", 1.0)) for unit in units],
    }


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
        "infotexts": [infotext(job.spec, version="") for job in jobs],
        "styles": [],
        "job_timestamp": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
        "clip_skip": first.clip_skip or 1,
    }


def _progress(context: ApiContext, caller: Caller) -> dict[str, Any]:
    newest = next(iter(context.views.renders(limit=1, owner=caller.owner)), None)
    share, left, job, total = 0.0, 0.0, "", 0
    if newest is not None and not newest.finished:
        running = context.views.progress(newest.id)
        share = (newest.total - newest.remaining + sum(running.values())) / newest.total
        left, job, total = context.outlook(newest)["seconds_left"] or 0.0, newest.id, newest.total
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
    """An error as the web UI's clients read it."""
    del fields  # the words name them
    return {"error": "HTTPException" if status < 500 else "ServerError", "detail": detail, "body": "", "errors": ""}
