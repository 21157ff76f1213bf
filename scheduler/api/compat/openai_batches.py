"""OpenAI's Batch API for images: a file of requests in, a render, a file of answers out.

Nothing of it runs by itself: how a batch stands is read from its render, and its files of answers are written as they
are fetched.
"""

import json
from collections import Counter
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest

from scheduler.api.access import Caller, Reader, Submitter
from scheduler.api.compat.openai_images import ImagesBody, OpenAIError, answer_of, request_of
from scheduler.api.context import ApiContext, Context
from scheduler.api.problems import responses_in
from scheduler.intake.requests import numbered
from scheduler.intake.submit import specify, submit
from storage.errors import BadSpecification, InvalidInput
from storage.jobs.values import NewJob, Submission
from storage.objects.inputs import copy_input, get_input
from storage.renders.openai_files import Line, OpenAIBatch
from storage.renders.views import JobView
from storage.rules.states import Priority, State
from storage.spec.picture import explain

_ENDPOINT = "/v1/images/generations"
_MOST_LINES = 50_000
_PIECE_BYTES = 2**16

FileId = Annotated[
    str,
    Path(
        pattern=r"^(file-[0-9a-f]{24}|batch_[0-9a-f]{24}-(output|errors))$",
        description="Of an uploaded file, or as a batch names its files of answers and of errors.",
    ),
]
BatchId = Annotated[str, Path(pattern=r"^batch_[0-9a-f]{24}$", description="As POST /v1/batches answered.")]


class BatchBody(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"input_file_id": f"file-{'0' * 24}", "endpoint": "/v1/images/generations"}]},
    )

    input_file_id: str = Field(description="Of a file that was sent to POST /v1/files with the purpose `batch`.")
    endpoint: Literal["/v1/images/generations"]
    completion_window: str = Field("24h", description="Without effect here.")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


class Counts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchAnswer(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str = _ENDPOINT
    errors: None = None
    input_file_id: str
    completion_window: str = "24h"
    status: str = Field(description="in_progress, completed or cancelled")
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int
    completed_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str]


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _BatchLine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    custom_id: Annotated[str, Field(min_length=1, max_length=256)]
    method: Literal["POST"]
    url: Literal["/v1/images/generations"]
    body: ImagesBody


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses_in(OpenAIError))


@router.post("/batches")
def create_batch(context: Context, body: BatchBody, caller: Submitter) -> BatchAnswer:
    """Submit a file of requests (JSONL, uploaded with the purpose `batch`): accepted whole, or not at all."""
    file = context.files.file(caller.owner, body.input_file_id)
    bodies, lines = _read(get_input(context.objects, file.object))
    context.admit(caller, sum(line.n for line in lines))
    render = submit(
        context.jobs,
        context.registry,
        context.tickets,
        _wanted(context, caller, bodies),
        Submission(owner=caller.owner, priority=Priority.BULK, key_id=caller.key_id),
    )
    batch_id = context.files.add_batch(
        owner=caller.owner,
        file_id=file.id,
        render_id=render.render_id,
        metadata=body.metadata or {},
        lines=lines,
    )
    return _answer(context, context.files.batch(caller.owner, batch_id))


@router.get("/batches")
def list_batches(
    context: Context,
    caller: Reader,
    after: Annotated[
        str | None, Query(pattern=r"^batch_[0-9a-f]{24}$", description="The page after this batch.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="The most in a page.")] = 20,
) -> BatchList:
    """Your batches, newest first."""
    found = context.files.batches(caller.sees, limit=limit + 1, after=after)
    page = [_answer(context, batch) for batch in found[:limit]]
    return BatchList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/batches/{batch_id}")
def get_batch(context: Context, batch_id: BatchId, caller: Reader) -> BatchAnswer:
    """How a batch stands."""
    return _answer(context, context.files.batch(caller.sees, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel_batch(context: Context, batch_id: BatchId, caller: Submitter) -> BatchAnswer:
    """Cancel what is not finished of it. Harmless to repeat."""
    batch = context.files.batch(caller.sees, batch_id)
    context.jobs.cancel(batch.render_id)
    return _answer(context, batch)


@router.get("/files/{file_id}/content", response_class=StreamingResponse)
def get_file_content(context: Context, file_id: FileId, caller: Reader, http: HttpRequest) -> StreamingResponse:
    """The lines of an uploaded file, or of a batch's answers or errors (JSONL)."""
    if file_id.startswith("file-"):
        copy = TemporaryFile()  # noqa: SIM115 - closed when it is sent
        copy_input(context.objects, context.files.file(caller.sees, file_id).object, copy)
        return StreamingResponse(_pieces(copy), media_type="application/jsonl")
    batch_id, _, kind = file_id.rpartition("-")
    batch = context.files.batch(caller.sees, batch_id)
    return StreamingResponse(
        _written(context, batch, errors=kind == "errors", base_url=str(http.base_url)),
        media_type="application/jsonl",
    )


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _read(data: bytes) -> tuple[list[ImagesBody], list[Line]]:
    """The requests of a file. Raises BadSpecification with the line."""
    bodies: list[ImagesBody] = []
    lines: list[Line] = []
    seen: set[str] = set()
    try:
        rows = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadSpecification(f"input_file_id: not UTF-8 text at byte {error.start}") from None
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            line = _BatchLine.model_validate_json(row)
        except ValidationError as error:
            raise BadSpecification(f"input_file_id: line {number}: {explain(error)}") from None
        if line.custom_id in seen:
            raise BadSpecification(f"input_file_id: line {number}: the custom_id {line.custom_id!r} is there already")
        seen.add(line.custom_id)
        first = lines[-1].first + lines[-1].n if lines else 0
        body = line.body.model_dump(mode="json", exclude_unset=True)
        lines.append(Line(custom_id=line.custom_id, first=first, n=line.body.n, body=body))
        bodies.append(line.body)
    if not lines or len(lines) > _MOST_LINES:
        raise BadSpecification(f"input_file_id: {len(lines)} requests in this file; from 1 to {_MOST_LINES} are taken")
    return bodies, lines


def _wanted(context: ApiContext, caller: Caller, bodies: list[ImagesBody]) -> Iterator[NewJob]:
    for number, body in enumerate(bodies, start=1):
        try:
            requests = [request_of(context, body)]
            for one in specify(numbered(requests), context.registry, pictures_each=body.n, seed=body.seed):
                context.check_work(caller, one.spec)
                yield one
        except InvalidInput as error:
            raise BadSpecification(f"input_file_id: request {number}: {error}") from None


def _answer(context: ApiContext, batch: OpenAIBatch) -> BatchAnswer:
    render = context.views.render(batch.render_id)
    over = render.finished
    counts = _counted(context, batch) if over else Counts(total=len(batch.lines), completed=0, failed=0)
    status = "in_progress" if not over else "cancelled" if render.cancelled else "completed"
    finished = None if render.finished_at is None else int(render.finished_at)
    return BatchAnswer(
        id=batch.id,
        input_file_id=batch.file_id,
        status=status,
        output_file_id=f"{batch.id}-output" if over and counts.completed else None,
        error_file_id=f"{batch.id}-errors" if over and counts.failed else None,
        created_at=int(batch.created_at),
        in_progress_at=int(batch.created_at),
        completed_at=finished if status == "completed" else None,
        cancelled_at=finished if status == "cancelled" else None,
        request_counts=counts,
        metadata=dict(batch.metadata),
    )


def _counted(context: ApiContext, batch: OpenAIBatch) -> Counts:
    """Lines whose pictures are all done, and the others."""
    bad = {job.index for job in context.views.jobs(batch.render_id, state=State.FAILED)}
    bad |= {job.index for job in context.views.jobs(batch.render_id, state=State.CANCELLED)}
    failed = sum(any(index in bad for index in range(line.first, line.first + line.n)) for line in batch.lines)
    return Counts(total=len(batch.lines), completed=len(batch.lines) - failed, failed=failed)


def _written(context: ApiContext, batch: OpenAIBatch, *, errors: bool, base_url: str) -> Iterator[str]:
    """The lines of a batch's file of answers, or of errors."""
    jobs = context.views.jobs(batch.render_id)
    for number, line in enumerate(batch.lines, start=1):
        mine = [next(jobs) for _ in range(line.n)]
        states = Counter(job.state for job in mine)
        failed = states[State.DONE] < line.n
        if states[State.FAILED] + states[State.CANCELLED] + states[State.DONE] == line.n and failed == errors:
            yield json.dumps(_line(context, batch, number, line, mine, base_url), ensure_ascii=False) + "\n"


def _line(
    context: ApiContext, batch: OpenAIBatch, number: int, line: Line, jobs: list[JobView], base_url: str
) -> dict[str, Any]:
    told: dict[str, Any] = {"id": f"batch_req_{batch.id[6:]}_{number}", "custom_id": line.custom_id}
    if undone := next((job for job in jobs if job.state is not State.DONE), None):
        reason = undone.error or f"it was {undone.state}"
        return {**told, "response": None, "error": {"code": "render_failed", "message": reason}}
    answer = answer_of(context, ImagesBody.model_validate(line.body), jobs, base_url=base_url)
    body = answer.model_dump(exclude_none=True)
    return {**told, "response": {"status_code": 200, "request_id": batch.render_id, "body": body}, "error": None}
