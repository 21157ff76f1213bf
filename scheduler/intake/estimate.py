"""Estimate what a render would take from what was rendered lately: batches, device seconds, bytes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.intake.pace import pace_of, work
from storage.jobs.values import NewJob
from storage.renders.measures import BatchSample, Measures
from storage.spec.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Estimate:
    pictures: int
    batches: int
    #: On one device; None if a model has rendered nothing lately.
    device_seconds: float | None
    #: In the store; None likewise.
    bytes: int | None
    models: tuple[str, ...]


def estimate(wanted: Iterable[NewJob], registry: Registry, measures: Measures) -> Estimate:
    """Estimate jobs, read as a stream."""
    of_key: Counter[tuple[str, str]] = Counter()
    pixels: Counter[str] = Counter()
    amount: Counter[str] = Counter()
    for one in wanted:
        spec = one.spec
        of_key[spec.model, spec.batch_key()] += 1
        pixels[spec.model] += spec.width * spec.height
        amount[spec.model] += work(spec, registry[spec.model])
    samples = {model: measures.samples(model) for model in pixels}
    paces = {model: pace for model, last in samples.items() if (pace := pace_of(last, registry[model]))}
    known = paces.keys() == samples.keys()
    return Estimate(
        pictures=of_key.total(),
        batches=sum(-(-n // registry[model].batch) for (model, _), n in of_key.items()),
        device_seconds=sum(n * paces[model].mean for model, n in amount.items()) if known else None,
        bytes=round(sum(n * _bytes_per_pixel(samples[model]) for model, n in pixels.items())) if known else None,
        models=tuple(sorted(pixels)),
    )


def _bytes_per_pixel(samples: Sequence[BatchSample]) -> float:
    stored = [sample for sample in samples if sample.bytes is not None]
    pixels = sum(sample.spec.width * sample.spec.height for sample in stored)
    return sum(sample.bytes or 0 for sample in stored) / pixels if pixels else 0.0
