"""What a model's pictures take on a device: memory by size, seconds by the number of pictures in a call, precision."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.errors import BadSpecification, OutOfMemory
from storage.spec.model_checks import CheckFinding
from storage.spec.picture import Spec
from worker.checks.drawing import Drawer, Drawn, Pictures, psnr
from worker.rendering.backend import Backend
from worker.rendering.memory_meter import peak_memory
from worker.serving.knee_search import KneeSearch

#: Of what is free, what the next thing to try may be expected to take.
_SHARE = 0.5
#: Beside a worker of this device it is to be left alone: its own calls must still fit.
_SHARE_BESIDE = 0.1
#: As workers have it: others wait for a call of slots, or for a batch, no longer than this.
_LONGEST_SLOT_CALL_SECONDS, _LONGEST_BATCH_SECONDS = 2.0, 15.0
#: No more are learned to be best.
_MOST = 64
#: For the table alone nobody waits longer.
_PATIENCE_SECONDS = 60.0
#: The first of each prepares kernels.
_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much memory may be tried for."""

    backend: Backend
    #: Whether a worker renders on this device.
    is_shared: bool

    def is_enough_for(self, n_bytes: int | None) -> bool:
        share = _SHARE_BESIDE if self.is_shared else _SHARE
        return n_bytes is None or n_bytes <= share * self.backend.available_memory()


def memory(drawer: Drawer, pictures: Pictures, room: Room, multiple: int) -> tuple[CheckFinding, int | None]:
    """Measure what a picture takes beside the weights at half, whole and double the sides; return that of the whole."""
    figures: list[dict[str, float | int | None]] = []
    told, own, per_pixel = [], None, None
    for factor in (0.5, 1, 2):
        width, height = (
            max(1, round(side * factor / multiple)) * multiple for side in (pictures.width, pictures.height)
        )
        try:
            spec = pictures.of(0, width=width, height=height, num_inference_steps=pictures.few_steps)
        except BadSpecification:
            continue
        if per_pixel is not None and not room.is_enough_for(round(per_pixel * width * height)):
            told.append(f"{width}×{height}: not tried, it would take about {_size(per_pixel * width * height)}")
            continue
        try:
            taken = _per_picture(drawer, pictures, spec, room)
        except OutOfMemory:
            told.append(f"{width}×{height}: out of memory")
            break
        if taken is not None:
            per_pixel = max(per_pixel or 0, taken / (width * height))
        if factor == 1:
            own = taken
        figures.append({"width": width, "height": height, "bytes": taken})
        told.append(f"{width}×{height}: " + ("not known here" if taken is None else _size(taken)))
    return CheckFinding(check="memory", held=None, words="; ".join(told), figures=tuple(figures)), own


def _per_picture(drawer: Drawer, pictures: Pictures, spec: Spec, room: Room) -> int | None:
    """Return the bytes that one more picture takes; if two do not fit, those that one takes."""
    # What the first call of a size sets up for good is no picture's.
    drawer.draw([spec])
    alone = _peak(drawer, [spec], pictures)
    if alone is None or not room.is_enough_for(2 * alone):
        return alone
    try:
        two = _peak(drawer, [spec, spec.model_copy(update={"seed": spec.seed + 1})], pictures)
    except OutOfMemory:
        return alone
    return alone if two is None else max(two - alone, alone // 2)


def _peak(drawer: Drawer, specs: Sequence[Spec], pictures: Pictures) -> int | None:
    with peak_memory(pictures.device) as peak:
        drawer.draw(specs)
    return peak.n_bytes


@dataclass(frozen=True, kw_only=True)
class _Sample:
    #: For one call of the model.
    step: float
    #: For as long as others wait: a call of slots, or a batch.
    call: float


def pace(drawer: Drawer, pictures: Pictures, room: Room, own_bytes: int | None) -> tuple[CheckFinding, int | None]:
    """Measure seconds per step by the number of pictures, and look for the best number as workers do."""
    longest = _LONGEST_BATCH_SECONDS if drawer.loop is None else _LONGEST_SLOT_CALL_SECONDS
    table: dict[int, list[_Sample]] = {}
    limit: list[str] = []

    def measured(n: int) -> bool:
        if n in table or limit:
            return n in table
        if own_bytes is not None and not room.is_enough_for(n * own_bytes):
            limit.append(f"{n} were not tried: they would take about {_size(n * own_bytes)}")
            return False
        try:
            table[n] = [_sample(drawer, pictures, n) for _ in range(_SAMPLES)]
        except OutOfMemory:
            limit.append(f"{n} do not fit")
            return False
        return True

    n = 1
    while measured(n) and 2 * n <= pictures.model.batch and 2 * table[n][-1].call * _SAMPLES <= _PATIENCE_SECONDS:
        n *= 2
    if not table:
        return CheckFinding(check="pace", held=None, words=f"not measured: {limit[0]}"), None
    best = _knee(max(table), table, measured, longest)
    figures = tuple(
        {"pictures": n, "seconds_per_step": min(one.step for one in samples[1:])}
        for n, samples in sorted(table.items())
    )
    words = ", ".join(f"{one['pictures']}: {_seconds(one['seconds_per_step'])}" for one in figures)
    words = f"seconds a step by pictures in a call: {words}; best for {best}"
    return CheckFinding(check="pace", held=None, words="; ".join([words, *limit]), figures=figures), best


def _knee(begin: int, table: dict[int, list[_Sample]], measured: Callable[[int], bool], longest: float) -> int:
    """Search as a worker would (`worker.serving.knee_search`), without waiting for pictures."""
    search = KneeSearch(begin, needed=_SAMPLES - 1)

    def note(n: int) -> None:
        for sample in table[n]:
            search.note("", n, share=sample.call / n, seconds=sample.call, now=0.0)

    note(begin)
    most = _MOST
    while (tried := search.candidate("", most=most, longest=longest, now=0.0)) is not None:
        if measured(tried):
            note(tried)
        else:
            most = tried - 1
    return search.size


def _sample(drawer: Drawer, pictures: Pictures, n: int) -> _Sample:
    specs = [pictures.of(number, num_inference_steps=pictures.few_steps) for number in range(n)]
    if drawer.loop is not None:
        slots = [drawer.loop.admit(spec) for spec in specs]
        drawer.loop.finish()
        began, calls = time.perf_counter(), 0
        while drawer.tick(slots):
            calls += 1
        drawer.loop.finish()
        each = (time.perf_counter() - began) / calls
        return _Sample(step=each, call=each)
    return _batch_sample(drawer, pictures, specs)


def _batch_sample(drawer: Drawer, pictures: Pictures, specs: Sequence[Spec]) -> _Sample:
    """Time a batch of few steps, and work out what one of the usual number takes."""
    ends: list[float] = []
    began = time.perf_counter()

    def on_step() -> None:
        ends.append(time.perf_counter())
        drawer.on_step()

    drawer.loaded.render(specs, on_step)
    whole = time.perf_counter() - began
    # On a GPU calls return before they are done; over several of them the pace is the device's.
    step = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else whole / max(1, len(ends))
    calls = pictures.model.num_inference_steps / pictures.few_steps * max(1, len(ends))
    return _Sample(step=step, call=whole + step * max(0.0, calls - len(ends)))


def half_precision(
    half: Sequence[Drawn], specs: Sequence[Spec], draw: Callable[[Sequence[Spec]], list[Drawn]]
) -> CheckFinding:
    """Compare pictures in half precision with those of the same weights in single precision."""
    single = [drawn for spec in specs for drawn in draw([spec])]
    found = [psnr(one, other) for one, other in zip(half, single, strict=True)]
    spoiled = [one.recipe["because"] for one in half if one.recipe.get("because")]
    least = min(found)
    shown = "equal to" if math.isinf(least) else f"PSNR {least:.1f} dB or more to"
    words = f"{len(found)} pictures in {half[0].recipe['dtype']} are {shown} those in float32"
    figures = tuple({"psnr_db": None if math.isinf(one) else round(one, 2)} for one in found)
    if spoiled:
        words = f"{len(spoiled)} of {len(half)} pictures were {spoiled[0]}, and were rendered again in float32"
    return CheckFinding(check="precision", held=not spoiled, words=words, figures=figures)


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _seconds(seconds: float | int | None) -> str:
    return f"{seconds or 0:.3g}"
