"""Where memory is short: learning how many pictures fit, moving a model in and out, and keeping parts elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline

from benchmarks.gpu.architectures import draw_pictures
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.farm_in_memory import LimitsInMemory, QueueInMemory, StoreInMemory, WatchedModel, serve, turn_of
from benchmarks.gpu.farm_models import backend_of, entry, registry_of, saved, specs_of
from benchmarks.gpu.speed import steps_of

#: What the farm is asked to render at once, and how many pictures it is left the memory for.
_ASKED, _FITS = 16, 5


def out_of_memory(bench: Bench) -> None:
    """Give the farm's batches memory for five pictures at once, and see what it learns; none may be lost."""
    name = "sd15"
    bench.forget()
    registry = registry_of(entry(bench, name, alias=name, batch_limit=_ASKED))
    bench.forget()
    model, loaded = registry[name], cast("Any", backend_of(bench).load(registry[name]))
    queue, limits = QueueInMemory(), LimitsInMemory()
    turn = turn_of(WatchedModel(loaded=loaded), queue, StoreInMemory(), limits)
    with _memory_for(bench, loaded.pipeline, lambda: _drawn(bench, name, loaded.pipeline)):
        learning = serve(turn, queue, model, specs_of(registry, name, _ASKED))
        learned = serve(turn, queue, model, specs_of(registry, name, _ASKED, first=100))
    found = next(iter(limits.known.values()), None)
    bench.note(
        model=name,
        what="out of memory",
        how="the allocator's limit" if bench.device == "cuda" else "pretended: a CPU has no allocator to limit",
        asked=_ASKED,
        room_for=_FITS,
        learned=None if found is None else found.pictures,
        frugal=None if found is None else found.frugal,
        stored=queue.done,
        seconds_learning=learning,
        seconds_learned=learned,
    )
    if found is None:
        raise RuntimeError("memory did not run out: nothing was learned")


def _drawn(bench: Bench, name: str, pipeline: Any) -> None:
    draw_pictures(pipeline, bench.arch(name), range(_FITS), steps=steps_of(bench))


@contextmanager
def _memory_for(bench: Bench, pipeline: Any, work: Callable[[], None]) -> Iterator[None]:
    """Have no more memory than `work` takes, and a twentieth; on a CPU, a UNet that refuses more rows."""
    if bench.device != "cuda":

        def refuse_many(_: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            # With guidance, two rows a picture.
            if len(given[0] if given else named["sample"]) > 2 * _FITS:
                raise torch.OutOfMemoryError("pretended: out of memory")

        hook = pipeline.unet.register_forward_pre_hook(refuse_many, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
        return
    bench.release()
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = torch.cuda.max_memory_reserved()
    bench.release()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.05 * peak / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def switch(bench: Bench, name: str) -> None:
    """Loading a model as the farm does, the first time and again, and as Diffusers does, over its bytes' copy."""
    registry = registry_of(entry(bench, name, alias=name, batch_limit=8))
    backend, folder = backend_of(bench), saved(bench, name)
    size = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    copies = {row["what"]: row["gb_per_second"] for row in bench.found("ceilings") if "gb_per_second" in row}
    rate = copies.get("copy host to device, pinned", copies.get("copy host to device, pageable"))
    where = {"dtype": bench.dtype, "use_safetensors": True}
    ways: Mapping[str, Callable[[], Any]] = {
        # Hashes the weights, once.
        "farm, first": lambda: backend.load(registry[name]),
        "farm, again": lambda: backend.load(registry[name]),
        "from_pretrained, to": lambda: DiffusionPipeline.from_pretrained(folder, **where).to(bench.device),
        "from_pretrained, device_map": lambda: DiffusionPipeline.from_pretrained(
            folder, device_map=bench.device, **where
        ),
    }
    for how, load in ways.items():
        bench.check_time(5, f"loading {name}: {how}")
        bench.release()
        bench.sync()
        started = time.perf_counter()
        made = load()
        bench.sync()
        seconds = time.perf_counter() - started
        del made
        bench.note(
            model=name,
            what="load",
            how=how,
            gb=size / 1e9,
            seconds=seconds,
            over_copy=None if rate is None else seconds * rate * 1e9 / size,
        )


def offload(bench: Bench, name: str) -> None:
    """Parts that wait in the computer's memory until they are needed: time of a batch and peak memory, by the farm."""
    bench.forget()
    kinds = ("none", "model")
    entries = [entry(bench, name, alias=f"{name}-{kind}", batch_limit=8, offload=kind) for kind in kinds]
    registry, backend = registry_of(*entries), backend_of(bench)
    bench.forget()
    for kind in kinds:
        alias = f"{name}-{kind}"
        loaded = backend.load(registry[alias])
        for batch in (1, 2 if bench.tiny else 4):
            bench.check_time(8, f"offload {kind}, batch {batch}")
            specs = specs_of(registry, alias, batch)
            loaded.render(specs, lambda: None)
            if bench.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = bench.once(lambda loaded=loaded, specs=specs: loaded.render(specs, lambda: None))  # type: ignore[misc]
            bench.note(
                model=name,
                what="pictures",
                how=f"offload {kind}" if bench.device == "cuda" else f"offload {kind}, which a CPU has no place for",
                batch=batch,
                steps=steps_of(bench),
                images_per_second=batch / seconds,
                peak_gib=torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None,
            )
        del loaded
        bench.release()
