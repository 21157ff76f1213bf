"""OpenAI's Batch API for images: a file of requests in, one render, a file of results out.

Nothing of it runs by itself: how a batch stands is read from its render, and its files of answers are written as they
are fetched.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.compat.bodies import ClientBody
from scheduler.api.compat.openai_images import FIELDS, ImagesBody, OpenAIError, answer_of, remarks_on, source_of
from scheduler.api.compat.spelling import spelled
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.orders import hash_of
from scheduler.api.parameters import IdempotencyKey
from scheduler.api.problems import responses_in
from scheduler.intake.admission import Terms, check_number
from scheduler.intake.files.json_values import rows_of_lines
from scheduler.intake.files.text import read_lines
from scheduler.intake.order import Order
from scheduler.intake.requests import BadRows
from scheduler.intake.submit import check_room, submit_order
from storage.access.keys import Limits
from storage.errors import BadSpecification
from storage.objects.inputs import copy_input
from storage.renders.openai_files import Line, OpenAIBatch
from storage.renders.views import JobView, RenderView
from storage.rules.states import Priority, State
from storage.spec.explanations import explain
from storage.spec.picture import CustomId

_ENDPOINT = "/v1/images/generations"
_MOST_LINES = 50_000
_PIECE_BYTES = 2**16
_WINDOW = "24h"

FileId = Annotated[
    str,
    Path(
        pattern=r"^(file-[0-9a-f]{24}|batch_[0-9a-f]{24}-(output|errors))$",
        description="The id of an uploaded file, or of a batch's output or error file.",
    ),
]
BatchId = Annotated[str, Path(pattern=r"^batch_[0-9a-f]{24}$", description="As returned by POST /v1/batches.")]


class BatchBody(ClientBody):
    """Say which file of requests to work through."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"input_file_id": f"file-{'0' * 24}", "endpoint": "/v1/images/generations"}]},
    )

    input_file_id: str = Field(description="The id of a file uploaded to POST /v1/files with the purpose `batch`.")
    endpoint: Literal["/v1/images/generations"] = Field(description="What each line asks for.")
    completion_window: str = Field("24h", description="A batch runs until it is finished, or cancelled.")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(
        None, description="Your own data about it; it comes back with the batch."
    )


class Counts(BaseModel):
    """Count the lines of a batch."""

    total: int = Field(description="Lines of its file.")
    completed: int = Field(description="Lines whose pictures are all done.")
    failed: int = Field(description="Lines of which a picture has failed, or was cancelled.")


class BatchAnswer(BaseModel):
    """Describe a batch, as OpenAI does."""

    id: str = Field(description="The id of the batch.")
    object: Literal["batch"] = Field("batch", description="Always `batch`.")
    endpoint: str = Field(_ENDPOINT, description="What each line asks for.")
    errors: None = Field(None, description="Always null: a file with errors is refused when the batch is created.")
    input_file_id: str = Field(description="The file of its requests.")
    completion_window: str = Field("24h", description="Always `24h`, and nothing is cut off after it.")
    status: Literal["in_progress", "completed", "cancelled"] = Field(description="How it stands.")
    output_file_id: str | None = Field(
        description="The file of answers, once it is over; null: none yet, or no line has succeeded."
    )
    error_file_id: str | None = Field(
        description="The file of errors, once it is over; null: none yet, or no line has failed."
    )
    created_at: int = Field(description="Seconds since 1970.")
    in_progress_at: int = Field(description="As `created_at`: it is in the queue at once.")
    completed_at: int | None = Field(description="Seconds since 1970; null until it is completed.")
    cancelled_at: int | None = Field(description="Seconds since 1970; null unless it was cancelled.")
    request_counts: Counts = Field(description="How many of its lines are done.")
    metadata: dict[str, str] = Field(description="As given.")
    remarks: list[str] = Field(
        default_factory=list, description="When it is created: warnings, such as a field that is ignored."
    )


class BatchList(BaseModel):
    """List batches, as OpenAI does."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[BatchAnswer] = Field(description="Newest first.")
    first_id: str | None = Field(description="Of this page.")
    last_id: str | None = Field(description="Of this page: `after` of the next one.")
    has_more: bool = Field(description="Whether there is a next page.")


class _BatchLine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    custom_id: CustomId
    method: Literal["POST"]
    url: Literal["/v1/images/generations"]
    body: ImagesBody


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=responses_in(OpenAIError), route_class=JsonRoute)


@router.post("/batches")
def create_batch(
    context: Context, body: BatchBody, caller: CanSubmit, idempotency_key: IdempotencyKey = None
) -> BatchAnswer:
    """Submit a file of requests (JSONL, uploaded with the purpose `batch`), whole or not at all."""
    file = context.files.file(caller.owner, body.input_file_id)
    # The content: a file that was uploaded twice has two ids.
    said = {**body.model_dump(mode="json"), "input_file_id": file.object}
    terms = Terms(
        priority=Priority.BULK,
        idempotency_key=idempotency_key,
        request_hash=hash_of(said) if idempotency_key else None,
        watched=True,
    )
    with _of_the_file():
        # Before the file is fetched, which has a line at least.
        check_room(context.intake, caller.submitter, terms, 1)
        with TemporaryFile() as copy:
            context.uploads.copy(file.object, copy)
            lines = _read(copy, caller.submitter.limits)
        order = _order(context, body, lines)
        with spelled(FIELDS):
            accepted = submit_order(context.intake, caller.submitter, order, terms)
    batch = context.files.add_batch(
        owner=caller.owner,
        file_id=file.id,
        render_id=accepted.render_id,
        metadata=body.metadata or {},
        lines=_placed(lines),
    )
    return _answer(context, batch).model_copy(update={"remarks": sorted(accepted.remarks)})


@router.get("/batches")
def list_batches(
    context: Context,
    caller: CanRead,
    after: Annotated[
        str | None, Query(pattern=r"^batch_[0-9a-f]{24}$", description="The page after this batch.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum page size.")] = 20,
) -> BatchList:
    """List your batches, newest first."""
    found = context.files.batches(caller.sees, limit=limit + 1, after=after)
    page = [_answer(context, batch) for batch in found[:limit]]
    return BatchList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/batches/{batch_id}")
def get_batch(context: Context, batch_id: BatchId, caller: CanRead) -> BatchAnswer:
    """Return the state of a batch."""
    return _answer(context, context.files.batch(caller.sees, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel_batch(context: Context, batch_id: BatchId, caller: CanSubmit) -> BatchAnswer:
    """Cancel the unfinished jobs of a batch. Idempotent."""
    batch = context.files.batch(caller.sees, batch_id)
    context.jobs.cancel(batch.render_id)
    return _answer(context, batch)


@router.get("/files/{file_id}/content", response_class=StreamingResponse)
def get_file_content(context: Context, file_id: FileId, caller: CanRead, http: HttpRequest) -> StreamingResponse:
    """Return the lines of an uploaded file, or of a batch's output or error file (JSONL)."""
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


@contextmanager
def _of_the_file() -> Iterator[None]:
    """Raise errors in a line as errors of the field that names the file."""
    try:
        yield
    except BadSpecification as error:
        raise BadSpecification(f"input_file_id: {error}") from None


def _read(file: IO[bytes], limits: Limits) -> dict[int, _BatchLine]:
    """Return the requests of a file by the numbers of their lines, as far as a key's limits go.

    Raises BadSpecification with the line, NotPermitted.
    """
    pictures = 0
    lines: dict[int, _BatchLine] = {}
    seen: dict[str, str] = {}
    for row in rows_of_lines(read_lines(file, "", BadRows()), BadRows()):
        try:
            line = _BatchLine.model_validate(row.cells)
        except ValidationError as error:
            raise BadSpecification(f"{row.where}: {explain(error, _BatchLine)}") from None
        if line.custom_id in seen:
            raise BadSpecification(
                f"{row.where}: duplicate custom_id {line.custom_id!r}; {seen[line.custom_id]} has it, too"
            )
        seen[line.custom_id] = row.where
        lines[int(row.where.removeprefix("line "))] = line
        pictures += line.body.n
        check_number(pictures, limits)
        if len(lines) > _MOST_LINES:
            raise BadSpecification(f"more than {_MOST_LINES:,} requests in this file; split it")
    if not lines:
        raise BadSpecification(f"no requests in this file; a batch has 1 to {_MOST_LINES:,}")
    return lines


def _order(context: ApiContext, body: BatchBody, lines: Mapping[int, _BatchLine]) -> Order:
    # Several pictures of a line would be called `ID-0`, `ID-1`, which may be another line's name.
    sources = [
        source_of(context, line.body, where=f"line {number}", custom_id=line.custom_id if line.body.n == 1 else None)
        for number, line in lines.items()
    ]
    ignored = [f"{name}: ignored; not supported by the farm" for name in body.model_extra or {}]
    if body.completion_window != _WINDOW:
        ignored.append("completion_window: ignored; a batch runs until it is finished or cancelled")
    of_lines = {remark for line in lines.values() for remark in remarks_on(context, line.body)}
    return Order(requests=tuple(sources), remarks=(*ignored, *sorted(of_lines)))


def _placed(lines: Mapping[int, _BatchLine]) -> list[Line]:
    """Return which of the render's pictures each line is."""
    placed: list[Line] = []
    first = 0
    for line in lines.values():
        body = line.body.model_dump(mode="json", exclude_unset=True)
        placed.append(Line(custom_id=line.custom_id, first=first, n=line.body.n, body=body))
        first += line.body.n
    return placed


def _answer(context: ApiContext, batch: OpenAIBatch) -> BatchAnswer:
    render = context.views.render(batch.render_id)
    over = render.finished
    counts = _counted(context, batch, render)
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


def _counted(context: ApiContext, batch: OpenAIBatch, render: RenderView) -> Counts:
    """Count lines whose pictures are all done, and lines of which one has failed or was cancelled."""
    n = len(batch.lines)
    if render.total == n:  # every line is one picture, which the render has counted
        return Counts(total=n, completed=render.done, failed=render.failed + render.cancelled)
    firsts = [line.first for line in batch.lines]
    done: Counter[int] = Counter()
    bad: set[int] = set()
    for index, state in context.views.final_jobs(batch.render_id):
        number = bisect_right(firsts, index) - 1
        if state is State.DONE:
            done[number] += 1
        else:
            bad.add(number)
    completed = sum(done[number] == line.n for number, line in enumerate(batch.lines))
    return Counts(total=n, completed=completed, failed=len(bad))


def _written(context: ApiContext, batch: OpenAIBatch, *, errors: bool, base_url: str) -> Iterator[str]:
    """Yield the lines of a batch's output file, or of its error file."""
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
        reason = undone.error or f"the picture is {undone.state}"
        return {**told, "response": None, "error": {"code": "render_failed", "message": reason}}
    asked = ImagesBody.model_validate(line.body)
    answer = answer_of(context, asked, jobs, base_url=base_url)
    body = answer.model_copy(update={"remarks": [*remarks_on(context, asked)]}).model_dump(exclude_none=True)
    return {**told, "response": {"status_code": 200, "request_id": batch.render_id, "body": body}, "error": None}
