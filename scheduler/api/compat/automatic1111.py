"""The API of AUTOMATIC1111's web UI: `POST /sdapi/v1/txt2img` and what its clients call beside it."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.compat import webui_answers
from scheduler.api.compat.pictures import Call, as_base64, encoded, rendered
from scheduler.api.compat.spelling import spelled
from scheduler.api.compat.webui_request import FIELDS, TextToImage, wanted
from scheduler.api.compat.webui_samplers import samplers, schedules
from scheduler.api.compat.webui_settings import KEPT, WebUISettings, alias_of, read_settings
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import hash_of
from scheduler.api.parameters import IdempotencyKey
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import responses_in
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Accepted
from storage.renders.views import JobView
from storage.rules.states import Priority, State
from storage.spec.model_files import public_source
from storage.spec.models import DiffusersModel

#: Longer than any client waits.
_SECONDS = 3600.0


class TextToImageAnswer(BaseModel):
    """Hold the pictures, as the web UI does."""

    images: list[str] = Field(description="Base64; PNG, or what `samples_format` says.")
    parameters: dict[str, Any] = Field(description="The request as it was understood.")
    info: str = Field(description="JSON: seeds, infotexts, other gallery metadata, and `remarks`.")


class WebUIError(BaseModel):
    """Hold an error, as the web UI does."""

    error: str = Field(description="The kind of error, as the web UI names it.")
    detail: str = Field(description="What is wrong, and what to do, for people.")
    body: str = Field(description="Empty.")
    errors: str = Field(description="Empty.")


router = APIRouter(
    prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=responses_in(WebUIError), route_class=JsonRoute
)
extension = APIRouter(
    prefix="/controlnet", tags=["AUTOMATIC1111"], responses=responses_in(WebUIError), route_class=JsonRoute
)


@router.post("/txt2img", response_model=TextToImageAnswer)
async def text_to_image(
    context: Context, body: TextToImage, caller: CanSubmit, http: Request, idempotency_key: IdempotencyKey = None
) -> Response:
    """Render, wait, and return the pictures: for clients of the web UI.

    Of an interrupted call, those that were made before, as the web UI does.
    """
    given = await run_in_threadpool(wanted, context, caller, body, context.webui_options.get(caller.owner, {}))

    def asked() -> tuple[Order, Terms]:
        terms = Terms(
            priority=Priority.INTERACTIVE,
            idempotency_key=idempotency_key,
            request_hash=hash_of(body.model_dump(mode="json")) if idempotency_key else None,
            watched=True,
        )
        if not body.override_settings_restore_afterwards:
            _keep(context, caller.owner, body.override_settings)
        return given.order, terms

    def answer(accepted: Accepted, jobs: Sequence[JobView]) -> TextToImageAnswer:
        return _answer(context, body, given.settings, accepted, jobs)

    call = Call(context=context, caller=caller, request=http, seconds=_SECONDS, interruptible=True)
    with spelled(FIELDS):
        return await rendered(call, asked, answer)


@router.get("/progress")
def get_progress(
    context: Context,
    caller: CanRead,
    skip_current_image: Annotated[bool, Query(description="Leave out the preview.")] = False,
) -> dict[str, Any]:
    """Return the progress of the caller's oldest `txt2img` that is waited for; of nothing else.

    `current_image` is a preview of its first picture that is being denoised (PNG, base64), for whoever asks again and
    again: workers make previews of what somebody asks for. `textinfo` says why there never is one.
    """
    return webui_answers.progress(context, caller, with_preview=not skip_current_image)


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
    return [webui_answers.checkpoint(model) for model in context.registry.models.values()]


@router.get("/loras")
def list_loras(context: Context, _caller: CanRead) -> list[dict[str, Any]]:
    """List the registered LoRAs, for `<lora:ALIAS:0.8>` in prompts."""
    return [webui_answers.lora(lora) for lora in context.registry.loras.values()]


@router.get("/samplers")
def list_samplers(_caller: CanRead) -> list[dict[str, Any]]:
    """List the samplers."""
    return list(samplers())


@router.get("/schedulers")
def list_noise_schedules(_caller: CanRead) -> list[dict[str, Any]]:
    """List the schedules of noise levels."""
    return list(schedules())


@router.get("/scripts")
def list_scripts(_caller: CanRead) -> dict[str, list[str]]:
    """List the supported extensions."""
    return {"txt2img": ["controlnet"], "img2img": []}


def list_nothing(_caller: CanRead) -> list[dict[str, Any]]:
    """List what the farm has none of."""
    return []


for _none in (
    *("upscalers", "latent-upscale-modes", "face-restorers", "realesrgan-models", "hypernetworks", "prompt-styles"),
    *("sd-vae", "sd-modules", "extensions"),
):
    router.add_api_route(f"/{_none}", list_nothing, name=f"list_{_none.replace('-', '_')}")


@router.get("/embeddings")
def list_embeddings(context: Context, caller: CanRead) -> dict[str, dict[str, Any]]:
    """List the words that stand for embeddings; skipped: those that do not fit the caller's checkpoint."""
    wanted = context.webui_options.get(caller.owner, {}).get("sd_model_checkpoint", context.registry.default)
    return webui_answers.embeddings(context.registry, wanted)


@router.get("/options")
def get_options(context: Context, caller: CanRead) -> dict[str, Any]:
    """Return the caller's settings."""
    defaults = {
        "sd_model_checkpoint": context.registry.default,
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "jpeg_quality": 80,
    }
    return {**defaults, **context.webui_options.get(caller.owner, {})}


@router.post("/options")
def set_options(context: Context, wanted: dict[str, Any], caller: CanSubmit) -> dict[str, Any]:
    """Set the caller's settings for requests that do not override them; those that the farm lacks are refused."""
    remarks = _keep(context, caller.owner, wanted)
    return {"remarks": remarks} if remarks else {}


@extension.get("/version")
def get_version_of_extension(_caller: CanRead) -> dict[str, int]:
    """Return the version of the extension's API."""
    return {"version": 3}


@extension.get("/model_list")
def list_controlnets(context: Context, _caller: CanRead) -> dict[str, list[str]]:
    """List the ControlNets; each is used with the checkpoint that has it."""
    models = [model for model in context.registry.models.values() if isinstance(model, DiffusersModel)]
    return {"model_list": sorted({public_source(net) for model in models for net in model.controlnets})}


@extension.get("/module_list")
def list_modules(_caller: CanRead) -> dict[str, Any]:
    """List the preprocessors: none."""
    return {"module_list": ["none"], "module_detail": {}}


def _answer(
    context: ApiContext, body: TextToImage, settings: WebUISettings, accepted: Accepted, jobs: Sequence[JobView]
) -> TextToImageAnswer:
    form, quality = settings.samples_format, settings.jpeg_quality
    made = [job for job in jobs if job.state is State.DONE]
    remarks = sorted(accepted.remarks)
    if len(made) < len(jobs):
        remarks.append(f"interrupted: {len(made)} of {len(jobs)} pictures were made (render {accepted.render_id})")
    return TextToImageAnswer(
        images=[as_base64(encoded(context, job, form=form, quality=quality)) for job in made] * body.send_images,
        parameters=body.model_dump(mode="json"),
        info=json.dumps({**webui_answers.info(context, body, jobs[0].spec, made), "remarks": remarks}),
    )


def _keep(context: ApiContext, owner: str, options: dict[str, Any]) -> list[str]:
    """Keep settings for later requests, and return remarks. Raises BadSpecification."""
    _, remarks = read_settings(context.registry, options)
    kept = {name: value for name, value in options.items() if name in KEPT and value is not None}
    if "sd_model_checkpoint" in kept:
        kept["sd_model_checkpoint"] = alias_of(context.registry, kept["sd_model_checkpoint"])
    context.webui_options[owner] = {**context.webui_options.get(owner, {}), **kept}
    return remarks


def error(status: int, code: ProblemCode, detail: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return an error in the form of the web UI."""
    del code, fields  # the words name them
    return {"error": "HTTPException" if status < 500 else "ServerError", "detail": detail, "body": "", "errors": ""}
