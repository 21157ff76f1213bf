"""Replicate's API: create, read and cancel predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.compat.bodies import ClientBody
from scheduler.api.compat.pictures import as_base64
from scheduler.api.compat.spelling import spelled
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import hash_of
from scheduler.api.parameters import IdempotencyKey, RenderId, wait_of
from scheduler.api.problems import RESPONSES
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from scheduler.intake.submit import Accepted, submit_order
from storage.errors import BadSpecification
from storage.renders.views import RenderView
from storage.rules.states import Priority, RenderState, State
from storage.rules.times import Time
from storage.spec.picture import Request

#: Name in Replicate's API → field of a specification.
_INPUTS = {"scheduler": "sampler", "num_outputs": "n"}
_MOST_PICTURES = 100
_SHOWN = 100
_CURSOR = "^(after|before)[.][0-9a-z]{1,32}$"

PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]
_STATUSES: Mapping[RenderState, PredictionStatus] = {"done": "succeeded", "failed": "failed", "cancelled": "canceled"}

Prefer = Annotated[
    str | None, Header(description="`wait` or `wait=N`: answer when the prediction is done, after N seconds at most.")
]


CancelAfter = Annotated[str | None, Header(description="Not supported, and refused: cancel the prediction yourself.")]


class PredictionBody(ClientBody):
    """Say what to predict, as Replicate's clients do."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"version": "shapes", "input": {"prompt": "a red star", "num_outputs": 2}}]},
    )

    version: str | None = Field(None, description="A registered model, with or without an owner before it.")
    input: dict[str, Any] = Field(description="Fields of a specification; `num_outputs` pictures.")
    webhook: str | None = Field(None, description="Not supported, and refused: POST /v1/renders takes webhooks.")


class Prediction(BaseModel):
    """Describe a prediction, as Replicate does."""

    id: str = Field(description="Also the id of its render.")
    model: str = Field(description="`farm/` and the model's alias.")
    version: str = Field(description="The model's alias.")
    status: PredictionStatus = Field(description="How it stands.")
    input: dict[str, Any] = Field(description="The prompt, the first picture's seed, and how many pictures.")
    output: list[str] | None = Field(description="URLs of the pictures, or the pictures themselves (data:).")
    error: str | None = Field(description="Why a picture has failed, if one has.")
    logs: str = Field(description="Progress, as a line of tqdm.")
    remarks: list[str] = Field(
        default_factory=list, description="When it is created: warnings, such as a field that is ignored."
    )
    metrics: dict[str, float] = Field(description="`predict_time`: seconds since its first picture was started.")
    created_at: Time | None = Field(description="RFC 3339.")
    started_at: Time | None = Field(description="RFC 3339; null until a picture is being rendered.")
    completed_at: Time | None = Field(description="RFC 3339; null until it is over.")
    urls: dict[str, str] = Field(description="Where to `get` it, and where to `cancel` it.")


class PredictionPage(BaseModel):
    """List predictions, as Replicate does."""

    previous: str | None = Field(description="The address of the page before; null on the first.")
    next: str | None = Field(description="The address of the page behind; null on the last.")
    results: list[Prediction] = Field(description="Newest first.")


router = APIRouter(prefix="/v1", tags=["Replicate"], responses=RESPONSES, route_class=JsonRoute)


@dataclass(frozen=True)
class _Call:
    """Hold what comes with a prediction's body."""

    context: Context
    caller: CanSubmit
    request: HttpRequest
    idempotency_key: IdempotencyKey = None
    prefer: Prefer = None
    cancel_after: CancelAfter = None


Call = Annotated[_Call, Depends()]


@router.post("/predictions", status_code=201)
async def create_prediction(body: PredictionBody, call: Call) -> Prediction:
    """Submit a prediction; `version` names the model."""
    return await _created(call, body, body.version)


@router.post("/models/{owner}/{name}/predictions", status_code=201)
async def create_prediction_of_model(
    owner: Annotated[str, Path(max_length=63, description="Anything.")],
    name: Annotated[str, Path(max_length=63, description="A registered model.")],
    body: PredictionBody,
    call: Call,
) -> Prediction:
    """Submit a prediction of a model; its owner is ignored."""
    del owner
    if body.version is not None and _alias(body.version) != name:
        raise BadSpecification(f"version: the address names the model {name}; leave the version out")
    return await _created(call, body, name)


@router.get("/predictions")
def list_predictions(
    context: Context,
    caller: CanRead,
    request: HttpRequest,
    cursor: Annotated[str | None, Query(pattern=_CURSOR, description="As in `next` or `previous` of a page.")] = None,
) -> PredictionPage:
    """List predictions, newest first, a hundred a page."""
    side, _, place = (cursor or "").partition(".")
    found = context.views.renders(
        limit=_SHOWN + 1,
        owner=caller.owner,
        after=place if side == "after" else None,
        before=place if side == "before" else None,
    )
    more = len(found) > _SHOWN
    page = found[1:] if more and side == "before" else found[:_SHOWN]
    # Whoever comes from one side may go back to it.
    earlier, later = (more, bool(page)) if side == "before" else (side == "after" and bool(page), more)
    address = f"{str(request.base_url).rstrip('/')}/v1/predictions?cursor="
    return PredictionPage(
        previous=f"{address}before.{page[0].id}" if earlier else None,
        next=f"{address}after.{page[-1].id}" if later else None,
        results=[_prediction(context, render, request, with_output=False) for render in page],
    )


@router.get("/predictions/{render_id}")
def get_prediction(context: Context, render_id: RenderId, caller: CanRead, request: HttpRequest) -> Prediction:
    """Return the state of a prediction."""
    return _prediction(context, context.render(caller, render_id), request)


@router.post("/predictions/{render_id}/cancel")
def cancel_prediction(context: Context, render_id: RenderId, caller: CanSubmit, request: HttpRequest) -> Prediction:
    """Cancel the unfinished pictures of a prediction. Idempotent."""
    context.render(caller, render_id)
    context.jobs.cancel(render_id)
    return _prediction(context, context.render(caller, render_id), request)


async def _created(call: _Call, body: PredictionBody, model: str | None) -> Prediction:
    if call.cancel_after is not None:
        raise BadSpecification("Cancel-After: not supported; POST /v1/predictions/ID/cancel cancels a prediction")
    seconds = wait_of(call.prefer)
    if seconds is None:
        accepted = await run_in_threadpool(_accepted, call, body, model)
        return await run_in_threadpool(_answer, call, accepted)
    waiters = call.context.waiters
    with waiters.places.taken(call.caller):
        accepted = await run_in_threadpool(_accepted, call, body, model)
        await waiters.wait(call.request, accepted.render_id, call.caller, seconds=seconds)
        return await run_in_threadpool(_answer, call, accepted)


def _accepted(call: _Call, body: PredictionBody, model: str | None) -> Accepted:
    terms = Terms(
        priority=Priority.INTERACTIVE,
        idempotency_key=call.idempotency_key,
        request_hash=hash_of({**body.model_dump(mode="json"), "version": model}) if call.idempotency_key else None,
        watched=True,
    )
    spellings = {"model": "version", **{ours: theirs for theirs, ours in _INPUTS.items() if theirs in body.input}}
    with spelled(spellings):
        return submit_order(call.context.intake, call.caller.submitter, _order(call.context, body, model), terms)


def _answer(call: _Call, accepted: Accepted) -> Prediction:
    render = call.context.render(call.caller, accepted.render_id)
    made = _prediction(call.context, render, call.request)
    # Replicate's client takes every other state in this answer, `processing` too, for the end of the prediction.
    status = {} if render.finished else {"status": "starting"}
    return made.model_copy(update={**status, "remarks": sorted(accepted.remarks)})


def _order(context: ApiContext, body: PredictionBody, model: str | None) -> Order:
    if body.webhook is not None:
        raise BadSpecification(
            "webhook: not supported for predictions; use POST /v1/renders, or poll GET /v1/predictions/ID"
        )
    for theirs, ours in _INPUTS.items():
        if None not in (body.input.get(theirs), body.input.get(ours)):
            raise BadSpecification(f"{theirs}: the same as {ours}; give one of them")
    fields = {_INPUTS.get(name, name): value for name, value in body.input.items() if value is not None}
    if "model" in fields:
        raise BadSpecification("input.model: not allowed; `version` names the model")
    fields["model"] = context.registry.default if model is None else _alias(model)
    n = fields.pop("n", 1)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MOST_PICTURES:
        raise BadSpecification(f"num_outputs: must be 1 to {_MOST_PICTURES}, a whole number (given: {n!r:.40})")
    ignored = [name for name, value in (body.model_extra or {}).items() if value]
    return Order(
        requests=(SourcedRequest("", Request.parse(fields)),),
        pictures_each=n,
        remarks=tuple(f"{name}: ignored; not supported by the farm" for name in ignored),
    )


def _alias(version: str) -> str:
    """Return the alias in `OWNER/ALIAS:VERSION`."""
    return version.rpartition("/")[2].partition(":")[0][:100]


def _prediction(
    context: ApiContext, render: RenderView, request: HttpRequest, *, with_output: bool = True
) -> Prediction:
    jobs = list(context.views.jobs(render.id, limit=_MOST_PICTURES))
    done = [job for job in jobs if job.state is State.DONE]
    started = min((job.started_at for job in jobs if job.started_at is not None), default=None)
    failed = next((job.error for job in jobs if job.state is State.FAILED), None)
    address = str(request.base_url).rstrip("/") + f"/v1/predictions/{render.id}"
    metrics = {"predict_time": render.finished_at - started} if render.finished_at and started else {}
    spec = jobs[0].spec
    return Prediction(
        id=render.id,
        model=f"farm/{spec.model}",
        version=spec.model,
        status=_status(render, started=started is not None),
        input={"prompt": spec.prompt, "seed": spec.seed, "num_outputs": render.total},
        output=[_output(context, str(job.object)) for job in done]
        if with_output and done and render.finished
        else None,
        error=failed,
        logs=_logs(render, context.views.progress(render.id)),
        metrics=metrics,
        created_at=_time(render.created_at),
        started_at=_time(started),
        completed_at=_time(render.finished_at),
        urls={"get": address, "cancel": f"{address}/cancel"},
    )


def _status(render: RenderView, *, started: bool) -> PredictionStatus:
    if not render.finished:
        return "processing" if started else "starting"
    return _STATUSES[render.state]


def _output(context: ApiContext, key: str) -> str:
    address = context.objects.presign(key)
    return address if address.startswith("http") else f"data:image/png;base64,{as_base64(context.objects.get(key))}"


def _logs(render: RenderView, shares: Mapping[int, float]) -> str:
    """Return a line of tqdm: Replicate's clients read the progress from it."""
    percent = int(100 * (render.total - render.remaining + sum(shares.values())) / render.total)
    return f"{percent:3d}%|{'█' * (percent // 10):10}| {render.total - render.remaining}/{render.total}\n"


def _time(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
