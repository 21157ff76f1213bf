"""Replicate's API: create, read and cancel predictions."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
from scheduler.intake.addresses import check_url
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from scheduler.intake.submit import Accepted, submit_order
from scheduler.results.predictions import MOST_PICTURES, Prediction, prediction_of
from storage.errors import BadSpecification, NotFound
from storage.events.log import EventKind
from storage.events.webhooks import PREDICTION
from storage.jobs.values import Webhook
from storage.renders.views import JobView, RenderView
from storage.rules.states import Priority
from storage.spec.explanations import shown
from storage.spec.picture import Request

#: Name in Replicate's API → field of a specification.
_INPUTS = {"scheduler": "sampler", "num_outputs": "n"}
_SHOWN = 100
_CURSOR = "^(after|before)[.][0-9a-z]{1,32}$"

PredictionEvent = Literal["start", "output", "logs", "completed"]
#: When Replicate's webhooks are sent → the event of the farm.
_EVENTS: Mapping[str, EventKind] = {
    "start": EventKind.JOB_STARTED,
    "output": EventKind.JOB_DONE,
    "completed": EventKind.RENDER_FINISHED,
}

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
    webhook: Annotated[str, Field(max_length=2000)] | None = Field(
        None, description="Where to send the prediction when it starts, has another picture, and is over."
    )
    webhook_events_filter: Annotated[list[PredictionEvent], Field(max_length=4)] | None = Field(
        None, description="When to send it; null: always. There are no messages about `logs`."
    )


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
        results=[*_predictions(context, page, request)],
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
        webhook=_webhook(call.context, body),
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
    for theirs, ours in _INPUTS.items():
        if None not in (body.input.get(theirs), body.input.get(ours)):
            raise BadSpecification(f"{theirs}: the same as {ours}; give one of them")
    fields = {_INPUTS.get(name, name): value for name, value in body.input.items() if value is not None}
    if "model" in fields:
        raise BadSpecification("input.model: not allowed; `version` names the model")
    fields["model"] = context.registry.default if model is None else _alias(model)
    n = fields.pop("n", 1)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_PICTURES:
        raise BadSpecification(f"num_outputs: must be 1 to {MOST_PICTURES}, a whole number (given: {shown(n)})")
    ignored = [name for name, value in (body.model_extra or {}).items() if value]
    remarks = _remarks_on_version(body.version)
    if body.webhook_events_filter is not None and body.webhook is None:
        ignored.append("webhook_events_filter, without a webhook")
    elif "logs" in (body.webhook_events_filter or ()):
        ignored.append("webhook_events_filter: logs")
    return Order(
        requests=(SourcedRequest("", Request.parse(fields)),),
        pictures_each=n,
        remarks=(*remarks, *(f"{name}: ignored; not supported by the farm" for name in ignored)),
    )


def _webhook(context: ApiContext, body: PredictionBody) -> Webhook | None:
    """Return where to send the prediction. Raises BadSpecification."""
    if body.webhook is None:
        return None
    check_url(body.webhook, allow_private=context.services.settings.webhook_private)
    wanted = _EVENTS if body.webhook_events_filter is None else body.webhook_events_filter
    events = tuple(_EVENTS[name] for name in dict.fromkeys(wanted) if name in _EVENTS)
    if not events:
        raise BadSpecification(f"webhook_events_filter: expected one of {', '.join(_EVENTS)}")
    return Webhook(url=body.webhook, events=events, form=PREDICTION)


def _remarks_on_version(version: str | None) -> tuple[str, ...]:
    """Return what is to be said of `ALIAS:VERSION`: whoever pins a version expects the weights of that one."""
    pinned, alias = (version or "").partition(":")[2], _alias(version or "")
    if pinned in ("", alias):
        return ()
    return (f"version: {pinned[:70]} ignored; a model has one version here, named as it is",)


def _alias(version: str) -> str:
    """Return the alias in `OWNER/ALIAS:VERSION`."""
    return version.rpartition("/")[2].partition(":")[0][:100]


def _predictions(context: ApiContext, page: Iterable[RenderView], request: HttpRequest) -> Iterator[Prediction]:
    for render in page:
        # Deleted while the page was read: it is not listed, as a moment later.
        with suppress(NotFound):
            yield _prediction(context, render, request, with_output=False)


def _prediction(
    context: ApiContext, render: RenderView, request: HttpRequest, *, with_output: bool = True
) -> Prediction:
    def output(job: JobView) -> str:
        address = context.objects.presign(str(job.object))
        if address.startswith("http"):
            return address
        return f"data:image/png;base64,{as_base64(context.file_of(job))}"

    return prediction_of(context.views, render, str(request.base_url), output=output if with_output else None)
