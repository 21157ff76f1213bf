"""The farm itself over HTTP: files, models, workers, statistics, health and metrics."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import PurePath
from threading import BoundedSemaphore
from typing import Annotated

from fastapi import APIRouter, Form, Response, UploadFile
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from scheduler.api.access import Reader, Submitter
from scheduler.api.context import ApiContext
from scheduler.api.problems import RESPONSES, Refused
from scheduler.api.response_models import (
    FileAnswer,
    ModelAnswer,
    ModelList,
    ModelStats,
    ReadyAnswer,
    StatsAnswer,
    UsageAnswer,
    WorkerAnswer,
)
from scheduler.intake.manifests import KINDS
from scheduler.intake.uploads import MAX_BYTES, check_embeddings, check_image
from storage.database import schema
from storage.errors import BadSpecification, FarmError
from storage.events.webhooks import DeliveryState, Webhooks
from storage.fleet.fault_log import FaultLog
from storage.fleet.workers import SILENT_SECONDS
from storage.objects.inputs import put_input_file
from storage.rules.states import Priority
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.models import DiffusersModel

_COUNTED_TO = 100_000
_DAY_SECONDS = 86400.0
#: Inputs in memory at once to be checked, each of up to `MAX_BYTES` and what it decodes to.
_CHECKED_AT_ONCE = 2


def routes(context: ApiContext) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=RESPONSES, tags=["farm"])
    # An input waits on the disk until it may be in memory, whole.
    checking = BoundedSemaphore(_CHECKED_AT_ONCE)

    @router.post("/files", status_code=201)
    def upload_file(
        file: UploadFile,
        caller: Submitter,
        purpose: Annotated[str, Form(max_length=32, description="input, manifest or batch")] = "input",
    ) -> FileAnswer:
        """Store a conditioning image (PNG, JPEG, WebP) or embeddings (safetensors).

        With the purpose `manifest` a prompt file (.txt, .jsonl, .csv, .parquet), with `batch` requests of OpenAI's API.
        """
        name, size = file.filename or "", file.size or 0
        if size > MAX_BYTES:
            raise Refused(413, f"a file may have {MAX_BYTES // 2**20} MiB")
        if purpose == "manifest":
            _check_manifest(name)
        elif purpose != "batch":
            with checking:
                _check_input(name, file.file.read())
        reference = put_input_file(context.objects, file.file)
        stored = context.files.add_file(
            owner=caller.owner, name=name, purpose=purpose, n_bytes=size, reference=reference
        )
        return FileAnswer(
            id=stored.id,
            bytes=stored.bytes,
            created_at=int(stored.created_at),
            filename=stored.name,
            purpose=purpose,
            reference=reference,
        )

    @router.get("/models")
    def list_models(_caller: Reader) -> ModelList:
        """What can be rendered, with which controls, and how many workers serve it."""
        serving = [worker for worker in context.workers.all() if worker.silent_for <= SILENT_SECONDS]
        models = [
            ModelAnswer(
                id=alias,
                kind=model.kind,
                default=alias == context.registry.default,
                pipeline=pipeline_of(model) if isinstance(model, DiffusersModel) else None,
                takes=_takes(model),
                width=model.width,
                height=model.height,
                num_inference_steps=model.num_inference_steps,
                guidance_scale=model.guidance_scale,
                workers=sum(alias in worker.models for worker in serving),
            )
            for alias, model in context.registry.models.items()
        ]
        return ModelList(data=models)

    @router.get("/workers")
    def list_workers(_caller: Reader) -> list[WorkerAnswer]:
        """Who renders, and how fast."""
        return [WorkerAnswer.of(worker) for worker in context.workers.all()]

    @router.get("/stats")
    def get_statistics(_caller: Reader) -> StatsAnswer:
        """What waits and how fast it goes, by model; what went wrong in the last day."""
        return _statistics(context)

    @router.get("/usage")
    def get_usage(caller: Reader) -> list[UsageAnswer]:
        """How much room your pictures take in the store; with a key of the role admin, each owner's."""
        return [UsageAnswer(**asdict(one)) for one in context.services.measures.usage(owner=caller.sees)]

    return router


def _check_manifest(name: str) -> None:
    """Raises BadSpecification for what cannot be a prompt file; its rows are checked when they are to be rendered."""
    if PurePath(name).suffix.lower().removeprefix(".") not in KINDS:
        raise BadSpecification(f"file: {name[:60]}: prompt files are {', '.join(f'.{kind}' for kind in KINDS)}")


def _check_input(name: str, data: bytes) -> None:
    """Raises BadSpecification for what could not condition a picture."""
    try:
        check_embeddings(data) if name.endswith(".safetensors") else check_image(data)
    except ValueError as error:
        raise BadSpecification(f"file: {error}") from None


def health_routes(context: ApiContext) -> APIRouter:
    """For load balancers and Prometheus; they carry no key."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=Response)
    def is_alive() -> Response:
        """This process answers."""
        return Response("ok\n", media_type="text/plain")

    @router.get("/readyz", responses={503: {"model": ReadyAnswer}})
    def is_ready(response: Response) -> ReadyAnswer:
        """Whether each thing that the farm stands on is there, and whether a worker serves."""
        checks = {name: _checked(check) for name, check in _checks(context).items()}
        is_ready = all(words == "ok" for words in checks.values())
        response.status_code = 200 if is_ready else 503
        return ReadyAnswer(ready=is_ready, checks=checks)

    @router.get("/metrics", response_class=Response)
    def get_metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(_metrics(context)), media_type=CONTENT_TYPE_LATEST)

    return router


def _takes(model: object) -> list[str] | None:
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    return None if taken is None else sorted(taken)


def _statistics(context: ApiContext) -> StatsAnswer:
    workers = [worker for worker in context.workers.all() if worker.silent_for <= SILENT_SECONDS]
    oldest = context.services.measures.oldest_waiting(context.registry.models)
    faults: dict[str, int] = {}
    for counted in FaultLog(context.services.database).counts(within_seconds=_DAY_SECONDS):
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


def _checks(context: ApiContext) -> dict[str, Callable[[], object]]:
    def broker() -> None:
        if context.tickets is None:
            raise FarmError("none runs")
        context.tickets.check()

    def a_worker_serves() -> None:
        if not any(worker.silent_for <= SILENT_SECONDS for worker in context.workers.all()):
            raise FarmError("no worker was heard of lately")

    return {
        "database": lambda: schema.check(context.services.database),
        "broker": broker,
        "objects": context.objects.check,
        "workers": a_worker_serves,
    }


def _checked(check: Callable[[], object]) -> str:
    try:
        check()
    except FarmError as error:
        # The kind of trouble; the words would name addresses.
        return type(error).__name__ if type(error) is not FarmError else str(error)
    return "ok"


def _metrics(context: ApiContext) -> CollectorRegistry:
    """Read from the rows when it is asked for: every process of a farm tells the same."""
    registry = CollectorRegistry()
    stats = _statistics(context)

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"farm_{name}", words, labels, registry=registry)

    depth = gauge("queue_depth", "Pictures that wait.", "model", "priority")
    oldest = gauge("oldest_wait_seconds", "How long the next picture has waited.", "model")
    rate = gauge("pictures_per_second", "Over the last minute.", "model")
    serving = gauge("workers", "Workers that serve the model.", "model")
    faults = gauge("faults_last_day", "Faults of the last 24 hours.", "fault")
    pictures = gauge("worker_pictures", "Pictures since the worker started.", "worker", "device")
    busy = gauge("worker_busy", "1 while it renders.", "worker", "device")
    batches = gauge("batches_last_hour", "Pipeline calls of the last hour.", "model")
    seconds = gauge("render_seconds_last_hour", "How long those took together.", "model")
    stages = gauge("stage_seconds", "How long a picture was at it, on average over the last hour.", "model", "stage")
    webhooks = gauge("webhook_messages_last_day", "Webhook messages of the last 24 hours.", "state")
    for alias, made in context.services.measures.made_lately(within_seconds=3600).items():
        batches.labels(alias).set(made.batches)
        seconds.labels(alias).set(made.seconds)
    for alias, spent in context.services.measures.stages(within_seconds=3600).items():
        for stage, taken in asdict(spent).items():
            stages.labels(alias, stage).set(taken)
    told = Webhooks(context.services.database).counts(within_seconds=_DAY_SECONDS)
    for state in DeliveryState:
        webhooks.labels(state.value).set(told.get(state, 0))
    for alias, model in stats.models.items():
        for priority, waiting in model.waiting.items():
            depth.labels(alias, priority).set(waiting)
        oldest.labels(alias).set(model.oldest_wait or 0)
        rate.labels(alias).set(model.rate)
        serving.labels(alias).set(model.workers)
    for fault, times in stats.faults.items():
        faults.labels(fault).set(times)
    for worker in context.workers.all():
        pictures.labels(worker.name, worker.device_name).set(worker.pictures)
        busy.labels(worker.name, worker.device_name).set(worker.state == "rendering")
    return registry
