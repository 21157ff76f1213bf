"""Renders and their jobs: submitting, looking, cancelling, trying again."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import RedirectResponse

from scheduler.api.access import Caller, Reader, Submitter
from scheduler.api.context import ApiContext, Context
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.request_bodies import MAX_JOBS, RenderBody
from scheduler.api.response_models import (
    AcceptedAnswer,
    CancelAnswer,
    DryAnswer,
    JobAnswer,
    JobPage,
    RenderAnswer,
    RenderPage,
    RetryAnswer,
)
from scheduler.intake.addresses import check_url
from scheduler.intake.manifests import read_manifest
from scheduler.intake.requests import SourcedRequest, numbered, with_defaults
from scheduler.intake.submit import collecting_remarks, publish_tickets, quanta, specify, submit
from storage.errors import BadSpecification
from storage.jobs.values import Idempotency, NewJob, Submission, Webhook
from storage.objects.inputs import has_input
from storage.rules.states import Priority, State
from storage.spec.controls import REFERENCE
from storage.spec.picture import Spec

_PAGE = 1000
_LONGEST_WAIT_SECONDS = 60

RenderId = Annotated[str, Path(pattern="^[0-9a-z]{1,32}$", description="Such as `k7m2p9x4tq8z`.")]
JobId = Annotated[str, Path(pattern=r"^[0-9a-z]{1,32}-\d{1,9}$", description="Such as `k7m2p9x4tq8z-000012`.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Your name for this request: sent again, it is accepted once.",
    ),
]


router = APIRouter(prefix="/v1", responses=RESPONSES)


@router.post("/renders", status_code=202, response_model=AcceptedAnswer | DryAnswer, tags=["renders"])
def submit_render(
    context: Context,
    body: RenderBody,
    caller: Submitter,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[str | None, Header(description="`wait=N`: answer when it is done, after N s at most.")] = None,
) -> AcceptedAnswer | DryAnswer:
    """Accept a render, whole or not at all, and answer at once. With `dry_run`, check it and accept nothing."""
    if body.webhook is not None:
        check_url(body.webhook.url, allow_private=context.services.settings.webhook_private)
    remarks: Counter[str] = Counter()
    with _asked(context, caller, body) as asked:
        checked = _Checked(context, caller, body)
        if body.manifest is None:
            context.admit(caller, body.jobs, name=idempotency_key)
            wanted: Iterable[NewJob] = list(collecting_remarks(checked.wanted(asked()), context.registry, remarks))
        else:
            # Gone through twice: to count it, which a file does not tell, and to accept it, row by row.
            for _ in collecting_remarks(checked.wanted(asked()), context.registry, remarks):
                pass
            context.admit(caller, checked.pictures, name=idempotency_key)
            wanted = _Checked(context, caller, body).wanted(asked())
        if body.dry_run:
            response.status_code = 200
            return DryAnswer(
                total=checked.pictures,
                models=sorted(checked.models),
                remarks=sorted(remarks),
                **context.outlook_of_new(sorted(checked.models), checked.pictures, body.priority),
            )
        once = (
            None
            if idempotency_key is None
            else Idempotency(name=idempotency_key, request_hash=_hash(context, caller, body))
        )
        accepted = submit(
            context.jobs,
            context.registry,
            context.tickets,
            wanted,
            Submission(
                owner=caller.owner,
                priority=Priority[body.priority.upper()],
                once=once,
                key_id=caller.key_id,
                watched=True,
                webhook=Webhook(url=body.webhook.url, events=tuple(body.webhook.events)) if body.webhook else None,
            ),
        )
    if (seconds := wait_of(prefer)) is not None:
        response.headers["Preference-Applied"] = f"wait={seconds}"
        context.wait(accepted.render_id, seconds=seconds)
    render = context.render(caller, accepted.render_id)
    response.headers["Location"] = f"/v1/renders/{render.id}"
    # As it was accepted: of a request made twice, the seeds of the first time.
    seeds = [job.spec.seed for job in context.views.jobs(render.id, limit=MAX_JOBS)]
    return AcceptedAnswer(
        **RenderAnswer.of(render, **context.outlook(render)).model_dump(), seeds=seeds, remarks=sorted(remarks)
    )


@router.get("/renders", tags=["renders"])
def list_renders(
    context: Context,
    caller: Reader,
    after: Annotated[str | None, Query(pattern="^[0-9a-z]{1,32}$", description="The page after this render.")] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="The most in a page.")] = 100,
) -> RenderPage:
    """Your renders, newest first; with a key of the role admin, everybody's."""
    found = context.views.renders(limit=limit + 1, owner=caller.sees, after=after)
    page = found[:limit]
    return RenderPage(
        renders=[RenderAnswer.of(render) for render in page], next=page[-1].id if len(found) > limit else None
    )


@router.get("/renders/{render_id}", tags=["renders"])
def get_render(context: Context, render_id: RenderId, caller: Reader) -> RenderAnswer:
    """How a render stands."""
    render = context.render(caller, render_id)
    return RenderAnswer.of(render, **context.outlook(render))


@router.get("/renders/{render_id}/jobs", tags=["renders"])
def list_jobs(
    context: Context,
    render_id: RenderId,
    caller: Reader,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    after: Annotated[int, Query(ge=-1, le=10**9, description="The page after this index.")] = -1,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="The most in a page.")] = 100,
) -> JobPage:
    """A render's pictures in their order."""
    context.render(caller, render_id)
    found = list(context.views.jobs(render_id, state=state, after=after, limit=limit + 1))
    page = found[:limit]
    return JobPage(jobs=[JobAnswer.of(job) for job in page], next=page[-1].index if len(found) > limit else None)


@router.delete("/renders/{render_id}", tags=["renders"])
def cancel_render(context: Context, render_id: RenderId, caller: Submitter) -> CancelAnswer:
    """Cancel what is not finished. Pictures that are done stay. Harmless to repeat."""
    context.render(caller, render_id)
    cancelled = context.jobs.cancel(render_id)
    return CancelAnswer(id=render_id, state=context.render(caller, render_id).state, cancelled=cancelled)


@router.post("/renders/{render_id}/retry", tags=["renders"])
def retry_render(context: Context, render_id: RenderId, caller: Submitter) -> RetryAnswer:
    """Render the failed pictures again, with the same seeds."""
    context.render(caller, render_id)
    retried = context.jobs.retry(render_id, quanta=quanta(context.registry))
    models = {job.spec.model for job in context.views.jobs(render_id, state=State.QUEUED, limit=_PAGE)}
    publish_tickets(context.jobs, context.registry, context.tickets, sorted(models & context.registry.models.keys()))
    return RetryAnswer(id=render_id, retried=retried)


@router.post("/renders/{render_id}/hold", tags=["renders"])
def hold_render(context: Context, render_id: RenderId, caller: Submitter) -> RenderAnswer:
    """Keep what waits out of the queue until it is released; what is being rendered goes on. Harmless to repeat."""
    context.render(caller, render_id)
    context.jobs.hold(render_id)
    return RenderAnswer.of(context.render(caller, render_id))


@router.post("/renders/{render_id}/release", tags=["renders"])
def release_render(context: Context, render_id: RenderId, caller: Submitter) -> RenderAnswer:
    """Let what is held into the queue again. Harmless to repeat."""
    context.render(caller, render_id)
    context.jobs.release(render_id)
    publish_tickets(context.jobs, context.registry, context.tickets, context.jobs.best_waiting(context.registry.models))
    render = context.render(caller, render_id)
    return RenderAnswer.of(render, **context.outlook(render))


@router.patch("/renders/{render_id}", tags=["renders"])
def change_render(
    context: Context,
    render_id: RenderId,
    caller: Submitter,
    priority: Annotated[Literal["interactive", "normal", "bulk"], Query(description="The new one.")],
) -> RenderAnswer:
    """Change the priority of what still waits."""
    context.render(caller, render_id)
    context.jobs.reprioritise(render_id, Priority[priority.upper()], quanta=quanta(context.registry))
    models = {job.spec.model for job in context.views.jobs(render_id, state=State.QUEUED, limit=_PAGE)}
    publish_tickets(context.jobs, context.registry, context.tickets, sorted(models & context.registry.models.keys()))
    render = context.render(caller, render_id)
    return RenderAnswer.of(render, **context.outlook(render))


@router.get("/jobs/{job_id}", tags=["jobs"])
def get_job(context: Context, job_id: JobId, caller: Reader) -> JobAnswer:
    """One picture: how it stands, and once it is done with what it was made."""
    job = context.job(caller, job_id)
    made_with = dict(context.views.batch(job.batch_id).recipe) if job.batch_id else None
    shares = context.views.progress(job.render_id) if job.state is State.RUNNING else {}
    more = {"progress": shares.get(job.index, 0.0)} if job.state is State.RUNNING else {}
    return JobAnswer.of(job, spec=job.spec.fields(), made_with=made_with, position=context.views.position(job), **more)


@router.get(
    "/jobs/{job_id}/image",
    tags=["jobs"],
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, 307: {"description": "It is there, for a quarter of an hour."}},
)
def get_image(context: Context, job_id: JobId, caller: Reader) -> Response:
    """The picture (PNG, its recipe within)."""
    job = context.job(caller, job_id)
    if job.object is None:
        raise Refused(404, f"job {job.id} is {job.state} and has no picture")
    address = context.objects.presign(job.object)
    if address.startswith("http"):
        return RedirectResponse(address, 307)
    headers = {"Content-Disposition": f'inline; filename="{job.render_id}-{job.file_name}"'}
    return Response(context.objects.get(job.object), media_type="image/png", headers=headers)


@router.get(
    "/pictures/{job_id}", tags=["jobs"], response_class=Response, responses={200: {"content": {"image/png": {}}}}
)
def get_picture(
    context: Context,
    job_id: JobId,
    until: Annotated[int, Query(ge=0, le=2**40, description="As in the address.")],
    signature: Annotated[str, Query(max_length=64, description="As in the address.")],
) -> Response:
    """A picture by an address that this API has given: it opens without a key, for an hour."""
    if not context.links.opens(job_id, until, signature):
        raise Refused(404, "this address is none of ours, or its hour is over")
    return Response(context.objects.get(str(context.views.job(job_id).object)), media_type="image/png")


@router.delete("/jobs/{job_id}", tags=["jobs"])
def cancel_job(context: Context, job_id: JobId, caller: Submitter) -> CancelAnswer:
    """Cancel one picture; the others of its batch go on. Harmless to repeat."""
    job = context.job(caller, job_id)
    cancelled = context.jobs.cancel_job(job.render_id, job.index)
    return CancelAnswer(id=job.id, state=context.job(caller, job_id).state, cancelled=int(cancelled))


@contextmanager
def _asked(context: ApiContext, caller: Caller, body: RenderBody) -> Iterator[Callable[[], Iterator[SourcedRequest]]]:
    """What is asked for, as often as need be. Raises BadSpecification with the place of what is wrong, NotFound."""
    if body.manifest is None:
        context.check_models(request.model for request in body.requests())
        yield lambda: numbered(body.requests())
        return
    with context.manifest(caller, body.manifest) as rows:
        yield lambda: with_defaults(read_manifest(rows), body.shared())


class _Checked:
    """Completes what is asked for, and checks that this caller may ask for it; counts it."""

    def __init__(self, context: ApiContext, caller: Caller, body: RenderBody) -> None:
        self._desk, self._caller, self._body = context, caller, body
        self._stored: set[str] = set()
        self.pictures = 0
        self.models: set[str] = set()

    def wanted(self, asked: Iterable[SourcedRequest]) -> Iterator[NewJob]:
        """Raises BadSpecification, NotFound, Refused."""
        for one in specify(asked, self._desk.registry, pictures_each=self._body.n, seed=self._body.seed):
            self._desk.check_work(self._caller, one.spec)
            for reference in _references(one.spec):
                if reference not in self._stored and not has_input(self._desk.objects, reference):
                    raise BadSpecification(f"{reference} is not in the store: send it to POST /v1/files first")
                self._stored.add(reference)
            self.pictures += 1
            self.models.add(one.spec.model)
            yield one


def wait_of(prefer: str | None) -> int | None:
    """How long a caller would like to wait (RFC 7240), within bounds."""
    match = re.search(r"(?:^|[,;\s])wait(?:=(\d{1,6}))?(?:$|[,;\s])", prefer or "")
    return min(int(match[1] or _LONGEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS) if match else None


def _references(spec: Spec) -> Sequence[str]:
    given = [*(spec.control_images or ()), *([spec.prompt_embeds] if spec.prompt_embeds else [])]
    return [name for name in given if REFERENCE.fullmatch(name)]


def _hash(context: ApiContext, caller: Caller, body: RenderBody) -> str:
    said = body.model_dump(mode="json", exclude_unset=True)
    if body.manifest is not None:
        # What is in it: sent twice, it has two ids.
        said["manifest"] = context.files.file(caller.sees, body.manifest).object
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
