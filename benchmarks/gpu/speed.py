"""Pictures per second of the bare models: by batch, compiled, by memory layout, by attention kernel, and decoding."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from benchmarks.gpu.architectures import draw_pictures, lay_out, make_decoder, unet_inputs
from benchmarks.gpu.bench import Bench, dtype_name

#: Of the pictures whose seconds are measured, as of MLPerf's.
STEPS = 20
#: Seconds that compiling a decoder may take, of those that its UNet took.
_DECODER_SHARE = 0.6
_BATCHES = (1, 2, 4, 8, 16, 32)


def steps_of(bench: Bench) -> int:
    return 2 if bench.tiny else STEPS


@torch.inference_mode()
def eager(bench: Bench, name: str) -> None:
    """The batch sweep of a model as the farm lays it out, then whole pictures at batch 1 and at the knee."""
    pipeline = bench.pipeline(name)
    _sweep(bench, name, pipeline.unet, (1, 2, 4) if bench.tiny else _BATCHES, how="eager")
    for batch in sorted({1, bench.knee(name)}):
        _pictures(bench, name, pipeline, batch, how="eager")


@torch.inference_mode()
def in_half(bench: Bench, name: str) -> None:
    """Whole pictures at the knee in float16, the farm's precision by default: SDXL's are then decoded in single."""
    _pictures(bench, name, bench.pipeline(name, torch.float16), bench.knee(name), how="eager")


@torch.inference_mode()
def compiled(bench: Bench, name: str, mode: str) -> None:
    """A model compiled in one mode, at the knee and at batch 1, with whole pictures at the knee."""
    pipeline, knee = bench.pipeline(name), bench.knee(name)
    calls = {batch: _captured(bench, name, pipeline, batch) for batch in {1, knee}}
    torch._dynamo.reset()
    counters.clear()
    options: dict[str, Any] = {"dynamic": False} | ({} if mode == "default" else {"mode": mode})
    # A C++ compiler takes minutes on a busy machine: what is tried without a GPU is that all shapes are known before.
    traced_only: dict[str, Any] = {"dynamic": False, "backend": "eager"}
    part = pipeline.unet
    part.compile(**(traced_only if bench.tiny else options))
    try:
        first = _compiled_calls(bench, name, part, calls[knee], batch=knee, how=mode)
        # Compiling cannot be stopped in the middle but with its process.
        decoder = "compiled" if bench.left > _DECODER_SHARE * first else "eager"
        with contextlib.ExitStack() as stack:
            if decoder == "compiled":
                before = pipeline.vae.decode
                stack.callback(setattr, pipeline.vae, "decode", before)
                pipeline.vae.decode = torch.compile(before, **(traced_only if bench.tiny else {"dynamic": False}))
            _pictures(bench, name, pipeline, knee, how=mode, decoder=decoder)
        if knee > 1:
            bench.check_time(first, f"compiling {name} for batch 1")
            _compiled_calls(bench, name, part, calls[1], batch=1, how=mode)
        # Each shape of the UNet and the decoder once; with more, something is compiled again and again.
        bench.note(model=name, what="graphs", how=mode, compiled=counters["stats"]["unique_graphs"])
    finally:
        part._compiled_call_impl = None
        torch._dynamo.reset()


def _captured(bench: Bench, name: str, pipeline: Any, batch: int) -> tuple[Any, Any]:
    """Return the arguments with which a pipeline calls its UNet: called otherwise, it would be compiled once more."""
    found: list[tuple[Any, Any]] = []

    def keep(_: Any, given: Any, named: Any) -> None:
        found.append(tree_map_only(torch.Tensor, torch.clone, (given, named)))

    hook = pipeline.unet.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        draw_pictures(pipeline, bench.arch(name), range(batch), steps=2)
    finally:
        hook.remove()
    return found[-1]


def _compiled_calls(bench: Bench, name: str, unet: Any, given: tuple[Any, Any], *, batch: int, how: str) -> float:
    """Compile for one batch, which its first call does, and time the next ones; return the seconds of compiling."""
    positional, named = given
    first = bench.once(lambda: unet(*positional, **named))
    taken = bench.seconds(lambda: unet(*positional, **named))["median"]
    bench.note(
        model=name,
        what="unet",
        how=how,
        dtype=dtype_name(bench.dtype),
        batch=batch,
        ms_per_picture_step=taken / batch * 1e3,
        first_seconds=first,
        efficiency=bench.efficiency(2 * batch * bench.flop(name)[0], taken, bench.dtype),
    )
    return first


def _sweep(bench: Bench, name: str, unet: Any, batches: Iterable[int], *, how: str) -> None:
    """Time a UNet's call for each batch: with guidance, two rows a picture."""
    tflop, last = bench.flop(name)[0], 0.0
    for batch in batches:
        # Twice the batch takes at most twice as long, and is called five times.
        bench.check_time(10 * last, f"{how} batch {batch} of {name}")
        given = unet_inputs(bench.arch(name), 2 * batch, device=bench.device, dtype=bench.dtype)
        labels = {"model": name, "what": "unet", "how": how, "dtype": dtype_name(bench.dtype), "batch": batch}
        call = lambda given=given: unet(**given, return_dict=False)  # noqa: E731 - bound to this batch
        try:
            first = bench.once(call)
            taken = bench.seconds(call, repeat=5 if first < 0.2 else 3, warm=1)
        except torch.OutOfMemoryError:
            bench.release()
            bench.note(**labels, failed="out of memory")
            return
        last = taken["median"]
        bench.note(
            **labels,
            ms_per_picture_step=last / batch * 1e3,
            first_seconds=first,
            efficiency=bench.efficiency(2 * batch * tflop, last, bench.dtype),
        )


def _pictures(bench: Bench, name: str, pipeline: Any, batch: int, **how: str) -> None:
    """Time whole pictures, from prompts to tensors in 0…1."""
    steps, (of_unet, of_decoder) = steps_of(bench), bench.flop(name)
    arch, dtype = bench.arch(name), pipeline.unet.dtype
    labels = {"model": name, "what": "pictures", **how, "batch": batch, "steps": steps}
    # All kernels are chosen, or compiled, by a call with as few steps as there can be.
    first = bench.once(lambda: draw_pictures(pipeline, arch, range(batch), steps=2))
    rounds = 1 if bench.left < 40 else 2
    taken = min(bench.once(lambda: draw_pictures(pipeline, arch, range(batch), steps=steps)) for _ in range(rounds))
    tflop = batch * (2 * steps * of_unet + of_decoder)
    bench.note(
        **labels,
        dtype=dtype_name(dtype),
        images_per_second=batch / taken,
        first_seconds=first,
        efficiency=bench.efficiency(tflop, taken, dtype),
    )


@torch.inference_mode()
def layout(bench: Bench, name: str) -> None:
    """Channels last against contiguous, UNet and decoder, at the knee."""
    batch, arch = bench.knee(name), bench.arch(name)
    pipeline = bench.pipeline(name)
    given = unet_inputs(arch, 2 * batch, device=bench.device, dtype=bench.dtype)
    try:
        for how, kind in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            lay_out(pipeline.unet, kind)
            taken = bench.seconds(lambda: pipeline.unet(**given, return_dict=False), repeat=3)["median"]
            bench.note(model=name, what="unet", how=how, batch=batch, ms_per_picture_step=taken / batch * 1e3)
    finally:
        lay_out(pipeline.unet, torch.channels_last if bench.device == "cuda" else torch.contiguous_format)


@torch.inference_mode()
def attention(bench: Bench, name: str) -> None:
    """Each kernel of scaled-dot-product attention by itself at the knee: PyTorch raises rather than take another.

    Where a kernel cannot do all layers (wide heads), it is tried again with flash attention for the rest.
    """
    # The plain mathematics keep all weights of all heads in memory.
    batch = min(8, bench.knee(name))
    unet = bench.pipeline(name).unet
    given = unet_inputs(bench.arch(name), 2 * batch, device=bench.device, dtype=bench.dtype)
    flash = SDPBackend.FLASH_ATTENTION
    kernels = [flash, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    for kernel in kernels:
        for allowed in ([kernel], [kernel, flash, SDPBackend.MATH]):
            how = " then ".join(one.name.lower().removesuffix("_attention") for one in allowed)
            labels = {"model": name, "what": "unet", "how": how, "batch": batch}
            try:
                with sdpa_kernel(allowed, set_priority=True):
                    taken = bench.seconds(lambda: unet(**given, return_dict=False), repeat=3, warm=1)["median"]
            except (RuntimeError, torch.OutOfMemoryError) as error:
                bench.release()
                bench.note(**labels, failed=f"{type(error).__name__}: {error}"[:200])
                continue
            bench.note(**labels, ms_per_picture_step=taken / batch * 1e3)
            break


@torch.inference_mode()
def decode(bench: Bench, name: str) -> None:
    """Decoding alone, by its own batch, then sliced and tiled, and in the precision that SDXL's falls back to."""
    arch, tflop = bench.arch(name), bench.flop(name)[1]
    pipeline = bench.pipeline(name)
    decoder = pipeline.vae
    # With the largest there are tensors of more than 2³¹ elements, which not every kernel takes: it comes last.
    *batches, largest = (1, 2) if bench.tiny else (1, 2, 4, 8, 16)
    for batch in batches:
        bench.check_time(3, f"decoding {batch} of {name}")
        _decoded(bench, name, decoder, batch, tflop, how="plain")
    for how, on, off in (
        ("sliced", decoder.enable_slicing, decoder.disable_slicing),
        ("tiled", decoder.enable_tiling, decoder.disable_tiling),
    ):
        on()
        try:
            _decoded(bench, name, decoder, batches[-1], tflop, how=how)
        finally:
            off()
    if arch.decoder.get("force_upcast"):
        single = make_decoder(arch, device=bench.device, dtype=torch.float32)
        _decoded(bench, name, single, batches[-1], tflop, how="plain")
        del single
    bench.check_time(3, f"decoding {largest} of {name}")
    _decoded(bench, name, decoder, largest, tflop, how="plain")


def _decoded(bench: Bench, name: str, decoder: Any, batch: int, tflop: float, *, how: str) -> None:
    side, dtype = bench.arch(name).latent, decoder.dtype
    labels = {"model": name, "what": "decode", "how": how, "dtype": dtype_name(dtype), "batch": batch}
    latents = torch.randn(batch, 4, side, side, device=bench.device, dtype=dtype)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        taken = bench.seconds(lambda: decoder.decode(latents, return_dict=False), repeat=3)["median"]
    except torch.OutOfMemoryError:
        bench.release()
        bench.note(**labels, failed="out of memory")
        return
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None
    bench.note(
        **labels,
        ms_per_picture=taken / batch * 1e3,
        efficiency=bench.efficiency(batch * tflop, taken, dtype),
        peak_gib=peak,
    )
