"""Routes of renders and their jobs: submit, read, cancel, retry, hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.compat.pictures import encoded
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.list_queries import JobQuery, RenderQuery, has_some
from scheduler.api.orders import order_of, terms_of
from scheduler.api.parameters import IdempotencyKey, JobId, RenderId, wait_of
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.request_bodies import MAX_JOBS, PatchBody, RenderBody
from scheduler.api.response_models import (
    AcceptedAnswer,
    CancelAnswer,
    DryAnswer,
    JobPage,
    RenderPage,
    RetryAnswer,
)
from scheduler.intake.admission import Terms
from scheduler.intake.estimate import estimate
from scheduler.intake.submit import admit, check_room, publish_tickets, quanta, remarks_of, submit_order
from scheduler.results.deletion import Deletion
from scheduler.results.json_forms import ExamplePicture, JobForm, RenderForm
from scheduler.results.outlook import outlook, outlook_of_new
from scheduler.results.signed_urls import Format
from storage.errors import BadSpecification, StillNeeded
from storage.renders.views import RenderView
from storage.rules.states import Priority, PriorityName, State

_PAGE = 1000
#: Requests for so few pictures are checked for room once, when they are admitted.
_FEW = 64


@dataclass(frozen=True)
class SubmitCall:
    """Hold what comes with a render's body."""

    context: Context
    caller: CanSubmit
    request: Request
    idempotency_key: IdempotencyKey = None


router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


@router.post("/renders", status_code=202, response_model=AcceptedAnswer | DryAnswer, tags=["renders"])
async def submit_render(
    call: Annotated[SubmitCall, Depends()],
    body: RenderBody,
    response: Response,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: answer when the render is done, after N seconds at most.")
    ] = None,
) -> AcceptedAnswer | DryAnswer:
    """Accept a render, whole or not at all, and return at once. With `dry_run`, check it and accept nothing."""
    seconds = wait_of(prefer)
    if body.dry_run:
        response.status_code = 200
        return await run_in_threadpool(check_render, call, body)
    if seconds is None:
        answer = await run_in_threadpool(submitted, call, body)
    else:
        waiters = call.context.waiters
        with waiters.places.taken(call.caller):
            accepted = await run_in_threadpool(submitted, call, body)
            await waiters.wait(call.request, accepted.id, call.caller, seconds=seconds)
            answer = await run_in_threadpool(_answer, call, accepted.id, accepted.remarks)
        response.headers["Preference-Applied"] = f"wait={seconds}"
    response.headers["Location"] = f"/v1/renders/{answer.id}"
    return answer


def submitted(call: SubmitCall, body: RenderBody) -> AcceptedAnswer:
    """Submit what a body asks for. Raises what is wrong with it, and QuotaExceeded and NotPermitted."""
    context = call.context
    terms = _terms(call, body)
    with order_of(context, call.caller, body) as order:
        accepted = submit_order(context.intake, call.caller.submitter, order, terms)
    return _answer(call, accepted.render_id, sorted(accepted.remarks))


def _terms(call: SubmitCall, body: RenderBody) -> Terms:
    """Return how to submit. Raises QuotaExceeded and NotPermitted if the key has no room for it."""
    terms = terms_of(call.context, call.caller, body, idempotency_key=call.idempotency_key)
    if body.jobs > _FEW or body.templates or body.manifest is not None:
        # Before thousands of pictures are specified, or a prompt file is fetched, which has a row at least.
        check_room(call.context.intake, call.caller.submitter, terms, body.jobs)
    return terms


def _answer(call: SubmitCall, render_id: str, remarks: list[str]) -> AcceptedAnswer:
    context = call.context
    render = context.render(call.caller, render_id)
    # From the rows: a repeated request gets the seeds of the first one.
    seeds = context.views.seeds(render.id, limit=MAX_JOBS)
    return AcceptedAnswer(
        **RenderForm.of(render, **outlook(context.services, render)).model_dump(), seeds=seeds, remarks=remarks
    )


def check_render(call: SubmitCall, body: RenderBody) -> DryAnswer:
    """Check what a body asks for, and accept nothing. Raises what submitting it would."""
    context = call.context
    terms = _terms(call, body)
    with order_of(context, call.caller, body) as order:
        before = context.jobs.accepted_before(terms.submission(call.caller.submitter))
        jobs = admit(context.intake, call.caller.submitter, order, terms)
        found = estimate(jobs, context.registry, context.services.measures)
        remarks = sorted(remarks_of(context.intake, jobs))
        examples = [ExamplePicture.of(spec) for spec in jobs.examples]
        combinations = None if order.templates is None else order.templates.counts()
    room = {"device_seconds": found.device_seconds, "bytes": found.bytes, "combinations": combinations}
    expected = outlook_of_new(context.services, found, terms.priority)
    told = {"examples": examples, "remarks": remarks, **expected, **room}
    return DryAnswer(id=before, total=jobs.total, models=list(jobs.models), **told)


@router.get("/renders", tags=["renders"])
def list_renders(
    context: Context,
    caller: CanRead,
    which: Annotated[RenderQuery, Depends()],
    after: Annotated[str | None, Query(pattern="^[0-9a-z]{1,32}$", description="The page after this render.")] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="Maximum page size.")] = 100,
) -> RenderPage:
    """List your renders, newest first; with an admin key, every owner's.

    A page says in `next` what to give as `after` for the next one, with the same filters.
    """
    page, following = renders_page(context, caller, which, after, limit)
    return RenderPage(renders=[RenderForm.of(render) for render in page], next=following)


def renders_page(
    context: Context, caller: CanRead, which: RenderQuery, after: str | None, limit: int
) -> tuple[list[RenderView], str | None]:
    """Return a page of renders, and after which the next one begins. Raises BadSpecification for a wrong parameter."""
    narrowed = which.narrowed(caller)
    found = context.views.renders(limit=limit + 1, owner=narrowed.owner, after=after, which=narrowed)
    page = found[:limit]
    return page, page[-1].id if len(found) > limit else None


@router.get("/renders/{render_id}", tags=["renders"])
def get_render(context: Context, render_id: RenderId, caller: CanRead) -> RenderForm:
    """Return the state of a render."""
    render = context.render(caller, render_id)
    return RenderForm.of(render, **outlook(context.services, render))


@router.get("/renders/{render_id}/jobs", tags=["renders"])
def list_jobs(
    context: Context,
    render_id: RenderId,
    caller: CanRead,
    which: Annotated[JobQuery, Depends()],
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    after: Annotated[int, Query(ge=-1, le=10**9, description="The page after this index.")] = -1,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="Maximum page size.")] = 100,
) -> JobPage:
    """List a render's jobs in their order."""
    return jobs_page(context, context.render(caller, render_id), JobsAsked(which, state, after, limit))


@dataclass(frozen=True)
class JobsAsked:
    """Which jobs of a render are asked for."""

    which: JobQuery
    state: State | None
    after: int
    limit: int


def jobs_page(context: Context, render: RenderView, asked: JobsAsked) -> JobPage:
    """Return a page of a render's jobs. Raises BadSpecification naming a wrong parameter."""
    narrowed, limit = asked.which.narrowed(), asked.limit
    if not has_some(render, asked.state):
        return JobPage(jobs=[], next=None)
    found = list(context.views.jobs(render.id, state=asked.state, which=narrowed, after=asked.after, limit=limit + 1))
    page = found[:limit]
    return JobPage(jobs=[JobForm.of(job) for job in page], next=page[-1].index if len(found) > limit else None)


@router.delete("/renders/{render_id}", tags=["renders"])
def cancel_render(
    context: Context,
    render_id: RenderId,
    caller: CanSubmit,
    purge: Annotated[bool, Query(description="Delete the render for good, with its pictures.")] = False,
) -> CancelAnswer:
    """Cancel the unfinished jobs of a render; finished pictures are kept. Idempotent.

    With `purge=true` the render is deleted, too: it is gone at once, and its pictures follow. 409 while an export of it
    is unfinished.
    """
    context.render(caller, render_id)
    if purge:
        with _needed_is_conflict():
            return CancelAnswer(
                id=render_id, state="deleted", cancelled=Deletion(services=context.services).hide(render_id)
            )
    cancelled = context.jobs.cancel(render_id)
    return CancelAnswer(id=render_id, state=context.render(caller, render_id).state, cancelled=cancelled)


@contextmanager
def _needed_is_conflict() -> Iterator[None]:
    """Answer 409 where something still needs what is to be deleted."""
    try:
        yield
    except StillNeeded as error:
        raise Refused(409, str(error)) from None


@router.post("/renders/{render_id}/retry", tags=["renders"])
def retry_render(context: Context, render_id: RenderId, caller: CanSubmit) -> RetryAnswer:
    """Retry the failed jobs of a render, with the same seeds."""
    context.render(caller, render_id)
    retried = context.jobs.retry(render_id, quanta=quanta(context.registry))
    models = {job.spec.model for job in context.views.jobs(render_id, state=State.QUEUED, limit=_PAGE)}
    publish_tickets(context.jobs, context.registry, context.tickets, sorted(models & context.registry.models.keys()))
    return RetryAnswer(id=render_id, retried=retried)


@router.post("/renders/{render_id}/hold", tags=["renders"])
def hold_render(context: Context, render_id: RenderId, caller: CanSubmit) -> RenderForm:
    """Hold the queued jobs of a render until it is released; running jobs continue. Idempotent."""
    context.render(caller, render_id)
    context.jobs.hold(render_id)
    return RenderForm.of(context.render(caller, render_id))


@router.post("/renders/{render_id}/release", tags=["renders"])
def release_render(context: Context, render_id: RenderId, caller: CanSubmit) -> RenderForm:
    """Put the held jobs of a render back into the queue. Idempotent."""
    context.render(caller, render_id)
    context.jobs.release(render_id)
    publish_tickets(context.jobs, context.registry, context.tickets, context.jobs.best_waiting(context.registry.models))
    render = context.render(caller, render_id)
    return RenderForm.of(render, **outlook(context.services, render))


@router.patch("/renders/{render_id}", tags=["renders"])
def change_render(
    context: Context,
    render_id: RenderId,
    caller: CanSubmit,
    body: PatchBody | None = None,
    priority: Annotated[PriorityName | None, Query(description="The new priority, where there is no body.")] = None,
) -> RenderForm:
    """Change the priority of a render's waiting and held jobs; it is given in the body, or in the query."""
    wanted = body.priority if body is not None else priority
    if wanted is None:
        raise BadSpecification('priority: missing; send {"priority": "bulk"}, or ?priority=bulk in the address')
    if priority not in (None, wanted):
        raise BadSpecification(f"priority: {wanted} in the body, {priority} in the address; give one of them")
    context.render(caller, render_id)
    changed = context.jobs.reprioritise(render_id, Priority[wanted.upper()], quanta=quanta(context.registry))
    models = {job.spec.model for job in context.views.jobs(render_id, state=State.QUEUED, limit=_PAGE)}
    publish_tickets(context.jobs, context.registry, context.tickets, sorted(models & context.registry.models.keys()))
    render = context.render(caller, render_id)
    if not changed and render.priority.name.lower() != wanted:
        raise Refused(409, f"render {render.id} is {render.state} and no job of it waits; its priority stays")
    return RenderForm.of(render, **outlook(context.services, render))


@router.get("/jobs/{job_id}", tags=["jobs"])
def get_job(context: Context, job_id: JobId, caller: CanRead) -> JobForm:
    """Return a job: its state, its specification and, once it is done, what it was made with."""
    job = context.job(caller, job_id)
    made_with = context.views.batch(job.batch_id).recipe_with(job.own_recipe) if job.batch_id else None
    shares = context.views.progress(job.render_id) if job.state is State.RUNNING else {}
    more = {"progress": shares.get(job.index, 0.0)} if job.state is State.RUNNING else {}
    return JobForm.of(job, spec=job.spec.fields(), made_with=made_with, position=context.views.position(job), **more)


@router.get(
    "/jobs/{job_id}/image",
    tags=["jobs"],
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        307: {"description": "The picture's address in the store, valid for 15 minutes."},
    },
)
def get_image(context: Context, job_id: JobId, caller: CanRead) -> Response:
    """Return the picture (PNG, with its recipe as metadata)."""
    job = context.job(caller, job_id)
    if job.object is None:
        raise Refused(404, f"job {job.id} is {job.state} and has no picture", code=ProblemCode.NO_PICTURE)
    address = context.objects.presign(job.object)
    if address.startswith("http"):
        return RedirectResponse(address, 307)
    headers = {"Content-Disposition": f'inline; filename="{job.render_id}-{job.file_name}"'}
    return Response(context.file_of(job), media_type="image/png", headers=headers)


@router.get(
    "/pictures/{job_id}", tags=["jobs"], response_class=Response, responses={200: {"content": {"image/png": {}}}}
)
def get_picture(
    context: Context,
    job_id: JobId,
    until: Annotated[int, Query(ge=0, le=2**40, description="As in the signed URL.")],
    signature: Annotated[str, Query(max_length=64, description="As in the signed URL.")],
    form: Annotated[Format, Query(alias="format", description="The format of the picture.")] = "png",
    quality: Annotated[int, Query(ge=0, le=100, description="Of JPEG and WebP.")] = 95,
) -> Response:
    """Return a picture by a signed URL, which needs no key and is valid for an hour."""
    if not context.links.opens(job_id, until, signature):
        raise Refused(404, "the signed URL is invalid or expired", code=ProblemCode.SIGNED_URL_INVALID)
    data = encoded(context, context.views.job(job_id), form=form, quality=quality)
    return Response(data, media_type=f"image/{form}")


@router.delete("/jobs/{job_id}", tags=["jobs"])
def cancel_job(
    context: Context,
    job_id: JobId,
    caller: CanSubmit,
    purge: Annotated[bool, Query(description="Delete the job for good, with its picture.")] = False,
) -> CancelAnswer:
    """Cancel one job; the others of its batch continue. Idempotent.

    With `purge=true` it is deleted, too, and its render has one picture less. 409 while an export of the render is
    unfinished, and for a line of an OpenAI batch.
    """
    job = context.job(caller, job_id)
    if purge:
        with _needed_is_conflict():
            return CancelAnswer(id=job.id, state="deleted", cancelled=Deletion(services=context.services).job(job))
    cancelled = context.jobs.cancel_job(job.render_id, job.index)
    return CancelAnswer(id=job.id, state=context.job(caller, job_id).state, cancelled=int(cancelled))
