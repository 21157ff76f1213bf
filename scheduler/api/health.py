"""Health and metrics, for load balancers and Prometheus; no key required."""

from collections.abc import Callable, Iterable
from dataclasses import asdict

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from scheduler.api.context import ApiContext, Context
from scheduler.api.fleet import DAY_SECONDS, statistics_of
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.response_models import ReadyAnswer
from storage.database import schema
from storage.errors import FarmError
from storage.events.webhooks import DeliveryState, Webhooks
from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.rules.states import PRIORITY_NAMES

router = APIRouter(tags=["health"], route_class=JsonRoute)


@router.get("/healthz", response_class=Response)
async def is_alive() -> Response:
    """Return 200: this process answers."""
    # A coroutine, which takes no thread: it answers also while all threads are busy.
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz", responses={503: {"model": ReadyAnswer}})
def is_ready(context: Context, response: Response) -> ReadyAnswer:
    """Return 200 if every service that the farm needs is available and a worker is up, else 503."""
    checks = {name: _checked(check) for name, check in _checks(context).items()}
    is_ready = all(words == "ok" for words in checks.values())
    response.status_code = 200 if is_ready else 503
    return ReadyAnswer(ready=is_ready, checks=checks)


@router.get("/metrics", response_class=Response)
def get_metrics(
    context: Context,
) -> Response:
    """Return metrics for Prometheus."""
    return Response(generate_latest(_metrics(context)), media_type=CONTENT_TYPE_LATEST)


def _checks(context: ApiContext) -> dict[str, Callable[[], object]]:
    def broker() -> None:
        if context.tickets is None:
            raise FarmError("not running")
        context.tickets.check()

    def a_worker_serves() -> None:
        if not any(worker.silent_for <= SILENT_SECONDS for worker in context.workers.all()):
            raise FarmError("no worker is up")

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
        # Only the class of the error: its message would reveal addresses.
        return type(error).__name__ if type(error) is not FarmError else str(error)
    return "ok"


def _metrics(context: ApiContext) -> CollectorRegistry:
    """Collect metrics from the rows on demand, so that every API process reports the same."""
    registry = CollectorRegistry()
    stats = statistics_of(context)

    def gauge(name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"farm_{name}", words, labels, registry=registry)

    depth = gauge("queue_depth", "Pictures that wait.", "model", "priority")
    oldest = gauge("oldest_wait_seconds", "How long the next picture has waited.", "model")
    rate = gauge("pictures_per_second", "Over the last minute.", "model")
    serving = gauge("workers", "Workers that serve the model.", "model")
    faults = gauge("faults_last_day", "Faults of the last 24 hours.", "fault")
    batches = gauge("batches_last_hour", "Batches of the last hour; of slots, pictures that ended together.", "model")
    seconds = gauge("render_seconds_last_hour", "How long those took together.", "model")
    stages = gauge("stage_seconds", "How long a picture was at it, on average over the last hour.", "model", "stage")
    first = gauge(
        "first_call_seconds", "From submission to the first call of the model, over the last hour.", "model", "priority"
    )
    webhooks = gauge("webhook_messages_last_day", "Webhook messages of the last 24 hours.", "state")
    for alias, made in context.services.measures.made_lately(within_seconds=3600).items():
        batches.labels(alias).set(made.batches)
        seconds.labels(alias).set(made.seconds)
    for alias, spent in context.services.measures.stages(within_seconds=3600).items():
        for stage, taken in asdict(spent).items():
            stages.labels(alias, stage).set(taken)
    for (alias, urgency), waited in context.services.measures.first_calls(within_seconds=3600).items():
        first.labels(alias, PRIORITY_NAMES[urgency]).set(waited)
    told = Webhooks(context.services.database).counts(within_seconds=DAY_SECONDS)
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
    _workers_metrics(context.workers.all(), gauge)
    return registry


def _workers_metrics(workers: Iterable[WorkerView], gauge: Callable[..., Gauge]) -> None:
    pictures = gauge("worker_pictures", "Pictures since the worker started.", "worker", "device")
    busy = gauge("worker_busy", "1 while it renders.", "worker", "device")
    fill = gauge("worker_slot_fill", "Rows of pictures ÷ rows computed, since the worker started.", "worker", "device")
    ticks = gauge("worker_ticks", "Calls of the model for slots, since the worker started.", "worker", "device")
    slots = gauge("worker_slots", "Pictures that are denoised together now, or wait.", "worker", "device", "how")
    mixed = gauge("worker_lora_ticks", "Calls for pictures with different LoRAs, by how.", "worker", "device", "how")
    for worker in workers:
        who = worker.name, worker.device_name
        pictures.labels(*who).set(worker.pictures)
        busy.labels(*who).set(worker.state == "rendering")
        if (counts := worker.slots) is not None:
            fill.labels(*who).set(counts.rows_used / max(1, counts.rows_computed))
            ticks.labels(*who).set(counts.ticks)
            mixed.labels(*who, "apart").set(counts.apart_ticks)
            mixed.labels(*who, "together").set(counts.mixed_ticks - counts.apart_ticks)
            for how in ("limit", "used", "aside", "ahead"):
                slots.labels(*who, how).set(getattr(counts, how))
