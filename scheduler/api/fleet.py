"""Routes about the farm itself: files, models, workers and statistics."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter, File, Form, Path, UploadFile

from scheduler.api.access import CanRead, CanSubmit
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.response_models import (
    FileAnswer,
    ModelAnswer,
    ModelList,
    ModelStats,
    StatsAnswer,
    UsageAnswer,
    WorkerAnswer,
)
from scheduler.intake.manifests import KINDS
from scheduler.intake.uploads import MAX_BYTES, check_embeddings, check_image
from storage.errors import BadSpecification
from storage.fleet.fault_log import FaultLog
from storage.fleet.idleness import idle_shares
from storage.fleet.steps import steps_of_workers
from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.rules.states import Priority
from storage.rules.times import rfc3339
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.models import DiffusersModel, Model

_COUNTED_TO = 100_000
DAY_SECONDS = 86400.0
#: Of how far back workers are said to have been idle.
_IDLE_SECONDS = 600.0
#: Ours, and those that OpenAI's clients have for images.
_INPUT_PURPOSES = ("input", "vision", "user_data")


router = APIRouter(prefix="/v1", responses=RESPONSES, tags=["farm"], route_class=JsonRoute)


@router.post("/files", status_code=201)
def upload_file(
    context: Context,
    file: Annotated[UploadFile, File(description="Its content, and its name.")],
    caller: CanSubmit,
    purpose: Annotated[str, Form(max_length=32, description="input, manifest or batch")] = "input",
) -> FileAnswer:
    """Store a conditioning image (PNG, JPEG, WebP) or embeddings (safetensors).

    With the purpose `manifest` a prompt file (.txt, .jsonl, .csv, .tsv, .json, .parquet), with `batch` requests of
    OpenAI's API. It is kept as long as a job, a schedule or a batch names it, and otherwise until the farm is purged, a
    day or more after it was last used.
    """
    name, size = file.filename or "", file.size or 0
    if size > MAX_BYTES:
        raise Refused(413, f"file larger than {MAX_BYTES // 2**20} MiB")
    if "\0" in name:
        raise BadSpecification("file: its name must not contain the character NUL")
    if purpose == "manifest":
        _check_manifest(name)
    elif purpose in _INPUT_PURPOSES:
        with context.checks.turn(caller):
            _check_input(name, file.file.read())
    elif purpose != "batch":
        raise BadSpecification(f"purpose: must be input, manifest or batch (given: {purpose!r})")
    reference = context.uploads.keep(file.file, caller.submitter.uploader)
    stored = context.files.add_file(owner=caller.owner, name=name, purpose=purpose, n_bytes=size, reference=reference)
    return FileAnswer(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at),
        filename=stored.name,
        purpose=purpose,
        reference=reference,
    )


@router.get("/models")
def list_models(context: Context, _caller: CanRead) -> ModelList:
    """List the models, with the controls they take and how many workers serve them."""
    serving = _serving(context)
    return ModelList(data=[_model(context, model, serving) for model in context.registry.models.values()])


@router.get("/models/{model}")
def get_model(
    context: Context, model: Annotated[str, Path(max_length=63, description="The alias of a model.")], _caller: CanRead
) -> ModelAnswer:
    """Return a model, with the controls it takes and how many workers serve it."""
    return _model(context, context.registry[model], _serving(context))


@router.get("/workers")
def list_workers(context: Context, _caller: CanRead) -> list[WorkerAnswer]:
    """List the workers, how fast they are, and how far with what they render."""
    database = context.services.database
    idle, steps = idle_shares(database, within_seconds=_IDLE_SECONDS), steps_of_workers(database)
    return [
        WorkerAnswer.of(worker, idle_share=idle.get(worker.name), steps=steps.get(worker.name))
        for worker in context.workers.all()
    ]


@router.get("/stats")
def get_statistics(context: Context, _caller: CanRead) -> StatsAnswer:
    """Return queue depth and throughput by model, and the faults of the last day."""
    return statistics_of(context)


@router.get("/usage")
def get_usage(context: Context, caller: CanRead) -> list[UsageAnswer]:
    """Return how much storage your pictures take; with an admin key, every owner's."""
    return [
        UsageAnswer(**asdict(one), oldest_time=rfc3339(one.oldest), newest_time=rfc3339(one.newest))
        for one in context.services.measures.usage(owner=caller.sees)
    ]


def _serving(context: ApiContext) -> list[WorkerView]:
    return [worker for worker in context.workers.all() if worker.silent_for <= SILENT_SECONDS]


def _model(context: ApiContext, model: Model, serving: Collection[WorkerView]) -> ModelAnswer:
    return ModelAnswer(
        id=model.alias,
        kind=model.kind,
        default=model.alias == context.registry.default,
        pipeline=pipeline_of(model) if isinstance(model, DiffusersModel) else None,
        takes=_takes(model),
        width=model.width,
        height=model.height,
        num_inference_steps=model.num_inference_steps,
        guidance_scale=model.guidance_scale,
        workers=sum(model.alias in worker.models for worker in serving),
    )


def _check_manifest(name: str) -> None:
    """Check the name of a prompt file; its rows are checked when they are submitted. Raises BadSpecification."""
    if PurePath(name).suffix.lower().removeprefix(".") not in KINDS:
        raise BadSpecification(
            f"file: {name[:60]}: not a prompt file; expected {', '.join(f'.{kind}' for kind in KINDS)}"
        )


def _check_input(name: str, data: bytes) -> None:
    """Check a conditioning image or embeddings. Raises BadSpecification."""
    try:
        check_embeddings(data) if name.endswith(".safetensors") else check_image(data)
    except ValueError as error:
        raise BadSpecification(f"file: {error}") from None


def _takes(model: object) -> list[str] | None:
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    return None if taken is None else sorted(taken)


def statistics_of(context: ApiContext) -> StatsAnswer:
    workers = _serving(context)
    oldest = context.services.measures.oldest_waiting(context.registry.models)
    faults: dict[str, int] = {}
    for counted in FaultLog(context.services.database).counts(within_seconds=DAY_SECONDS):
        faults[counted.fault] = faults.get(counted.fault, 0) + counted.times
    return StatsAnswer(
        models={
            alias: ModelStats(
                waiting={
                    priority.name.lower(): context.jobs.waiting(alias, priority, at_most=_COUNTED_TO)
                    for priority in Priority
                },
                oldest_wait=oldest.get(alias),
                rate=sum(worker.rate for worker in workers if worker.model == alias),
                workers=sum(alias in worker.models for worker in workers),
            )
            for alias in context.registry.models
        },
        faults=faults,
    )
