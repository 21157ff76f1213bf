"""How fast the farm's workers render a model while they are at work, by the batches that they stored last."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from storage.fleet.workers import SILENT_SECONDS, Workers, WorkerView
from storage.renders.measures import BatchSample
from storage.spec.models import Model
from storage.spec.picture import Spec
from storage.spec.samplers import model_calls

#: A worker that stores a batch more than twice its call's time, and this, after the one before had nothing to do.
_BETWEEN_SECONDS = 0.2


def work(spec: Spec, model: Model) -> int:
    """Return the pixels denoised: with guidance, each call is for the prompt and for the negative prompt."""
    return spec.width * spec.height * model_calls(spec, model) * (2 if spec.guidance_scale > 1 else 1)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a device per unit of `work` of one model, without the time in which it had nothing to do."""

    mean: float
    by_worker: Mapping[str, float]

    def per_second(self, workers: Iterable[str]) -> float:
        """Return the work that these workers do in a second; one that has not rendered this model yet is average."""
        return sum(1 / self.by_worker.get(worker, self.mean) for worker in workers)


def pace_of(samples: Iterable[BatchSample], model: Model) -> Pace | None:
    """Return the pace of a model by its last batches; None without any."""
    seconds: defaultdict[str, float] = defaultdict(float)
    done: defaultdict[str, int] = defaultdict(int)
    by_worker = attrgetter("worker")
    for worker, own in groupby(sorted(samples, key=by_worker), by_worker):
        for sample, busy in _busy(sorted(own, key=attrgetter("finished_at"))):
            seconds[worker] += busy
            done[worker] += sample.pictures * work(sample.spec, model)
    if not done:
        return None
    return Pace(
        mean=sum(seconds.values()) / sum(done.values()),
        by_worker={worker: seconds[worker] / done[worker] for worker in done},
    )


def serving(workers: Workers, models: Iterable[str]) -> list[str]:
    """Return the workers that serve all of these models now."""
    return serving_of(workers.all(), models)


def serving_of(workers: Iterable[WorkerView], models: Iterable[str]) -> list[str]:
    """Return those of these workers that serve all of these models now."""
    wanted = set(models)
    return [
        worker.name
        for worker in workers
        if wanted <= set(worker.models) and worker.state != "quarantined" and worker.silent_for <= SILENT_SECONDS
    ]


def _busy(samples: Sequence[BatchSample]) -> Iterator[tuple[BatchSample, float]]:
    """Yield one worker's batches with the seconds that each kept it busy: its call, and the work beside it."""
    before: BatchSample | None = None
    for sample in samples:
        busy = sample.seconds
        if before is not None:
            since = sample.finished_at - before.finished_at
            if busy <= since <= 2 * busy + _BETWEEN_SECONDS:
                busy = since
        yield sample, busy
        before = sample
