"""Pictures of mixed steps by slots beside a call for each, alike ones beside batches, and all of them made again."""

import random
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from benchmarks.gpu.architectures import prompt_of
from benchmarks.gpu.bench import Bench, MachineLacks, dtype_name, spread
from benchmarks.gpu.farm_in_memory import LimitsInMemory, QueueInMemory, StoreInMemory, WatchedModel, serve, turn_of
from benchmarks.gpu.farm_models import backend_of, entry, registry_of, specs_of
from storage.errors import RenderFailed
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry
from worker.rendering.backend import LoadedModel, Replay, Slot, SlotLoop, SlotPicture

_ROUNDS = 7
#: Slots, and pictures of a round, as many times that.
_SLOTS, _TIMES = 8, 3
_SAMPLERS = ("ddim", "euler", "dpm++ 2m", "unipc")


def pace(bench: Bench, name: str) -> None:
    """The farm's serving by slots in turns with the pipeline's calls: one for each of mixed pictures, one a batch."""
    slots, times = (2, 2) if bench.tiny else (_SLOTS, _TIMES)
    registry = registry_of(entry(bench, name, alias=name, batch_limit=slots))
    loaded = backend_of(bench).load(registry[name])
    _loop(loaded)
    queue = QueueInMemory()
    turn = turn_of(WatchedModel(loaded=loaded), queue, StoreInMemory(), LimitsInMemory())
    serve(turn, queue, registry[name], _mixed(bench, registry, name, slots, seed=1))
    _rendered(loaded, specs_of(registry, name, 1), batch=1)
    mixed, alike = [], []
    for number in range(2 if bench.tiny else _ROUNDS):
        varied = _mixed(bench, registry, name, slots * times, seed=number)
        same = specs_of(registry, name, slots * times, first=1000 * (number + 1))
        one_by_one = _rendered(loaded, varied, batch=1)
        mixed.append(one_by_one / serve(turn, queue, registry[name], varied))
        in_batches = _rendered(loaded, same, batch=slots)
        alike.append(in_batches / serve(turn, queue, registry[name], same))
        if bench.left < 1.3 * (one_by_one + in_batches):
            break
    bench.note(
        model=name,
        what="pace",
        dtype=dtype_name(bench.dtype),
        batch=slots,
        rounds=len(mixed),
        mixed_over_one_by_one=spread(mixed)["median"],
        alike_over_batches=spread(alike)["median"],
        mixed_rounds=spread(mixed),
        alike_rounds=spread(alike),
    )


def again(bench: Bench, name: str) -> None:
    """Pictures that joined, left and stood aside at random: each made again alone by its calls, and by the pipeline."""
    registry = registry_of(entry(bench, name, alias=name, batch_limit=_SLOTS))
    loaded = backend_of(bench).load(registry[name])
    loop = _loop(loaded)
    specs = _mixed(bench, registry, name, 4 if bench.tiny else 24, seed=7)
    made = _among_others(loop, specs)
    identical, furthest, judged = 0, 0, 0
    for spec, picture in zip(specs, made, strict=True):
        bench.check_time(2, f"pictures of {name} made again")
        identical += _pixels(_replayed(loop, spec, picture)).tobytes() == _pixels(picture.picture).tobytes()
        own = loaded.render([spec], lambda: None).pictures[0]
        furthest = max(furthest, int(np.abs(_pixels(own) - _pixels(picture.picture)).max()))
        judged += 1
    bench.note(
        model=name,
        what="made again",
        dtype=dtype_name(bench.dtype),
        pictures=judged,
        identical_share=identical / judged,
        # Of 255.
        furthest_from_the_pipeline=furthest,
        changes_of_calls=max(len(picture.recipe["calls"]) for picture in made),
    )


def _loop(loaded: LoadedModel) -> SlotLoop:
    loop = loaded.slots()
    if loop is None:
        raise MachineLacks("slots: on this device the rows of a call depend on one another (see the log)")
    return loop


def _mixed(bench: Bench, registry: Registry, name: str, n: int, *, seed: int) -> Sequence[Spec]:
    """Return pictures of one size: steps 10 to 40, guidance 3 to 7.5, four samplers."""
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    return [
        registry.resolve(
            Request.parse(
                {
                    "prompt": prompt_of(number),
                    "model": name,
                    "num_inference_steps": draw.randint(2, 5) if bench.tiny else draw.randint(10, 40),
                    "guidance_scale": round(draw.uniform(3, 7.5), 1),
                    "sampler": draw.choice(_SAMPLERS),
                }
            ),
            seed=1000 * seed + number,
        )
        for number in range(n)
    ]


def _rendered(loaded: LoadedModel, specs: Sequence[Spec], *, batch: int) -> float:
    """Return the seconds of the pipeline's calls, with the pictures in this computer's memory."""
    started = time.perf_counter()
    for at in range(0, len(specs), batch):
        loaded.render(specs[at : at + batch], lambda: None)
    return time.perf_counter() - started


def _among_others(loop: SlotLoop, specs: Sequence[Spec]) -> list[SlotPicture]:
    """Make pictures of which now these and now those are called together."""
    draw = random.Random(3)  # noqa: S311 - an order, not a secret
    waiting, begun = list(range(len(specs))), dict[int, Slot]()
    made: dict[int, SlotPicture] = {}
    while waiting or begun:
        while waiting and len(begun) < _SLOTS and draw.random() < 0.7:
            number = waiting.pop(0)
            begun[number] = loop.admit(specs[number])
        called = draw.sample(sorted(begun), draw.randint(1, len(begun))) if begun else []
        if failed := loop.tick([begun[number] for number in called]):
            raise next(iter(failed.values()))
        ended = [number for number in called if begun[number].made == begun[number].calls]
        made |= zip(ended, map(_picture, loop.develop([begun.pop(number) for number in ended])), strict=True)
    return [made[number] for number in range(len(specs))]


def _replayed(loop: SlotLoop, spec: Spec, picture: SlotPicture) -> Image.Image:
    count, which = picture.recipe["decoded"]
    calls = tuple((rows, threads, row, n) for rows, threads, row, n in picture.recipe["calls"])
    slot = loop.admit(spec, replay=Replay(calls=calls, decoded=(count, which)))
    while slot.made < slot.calls:
        if failed := loop.tick([slot]):
            raise failed[0]
    return _picture(loop.develop([slot])[0]).picture


def _picture(made: SlotPicture | RenderFailed) -> SlotPicture:
    if isinstance(made, RenderFailed):
        raise made
    return made


def _pixels(picture: Image.Image) -> Any:
    return cast("Any", np.asarray(picture)).astype(int)
