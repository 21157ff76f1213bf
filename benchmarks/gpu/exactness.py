"""Whether pictures stay the same: in half precision, in a batch, in another row, beside others, the second time."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.architectures import draw_pictures, make_pipeline, unet_inputs
from benchmarks.gpu.bench import Bench, dtype_name

#: Where two pictures do not differ at all, there is no ratio.
_IDENTICAL_DB = 100.0


@torch.inference_mode()
def rows(bench: Bench, name: str) -> None:
    """One UNet row, to the last bit: the same shape twice, in each place, beside other rows, and in other shapes."""
    unet = bench.pipeline(name).unet
    alone = _row_of(bench, name, unet, rows=2, place=0, seed=1)
    last = 0.0
    for count in (2, 4) if bench.tiny else (2, 8, 16, 32):
        bench.check_time(3 * last, f"{count} rows of {name}")
        started = time.monotonic()
        places = sorted({0, count // 2, count - 1})
        first = _row_of(bench, name, unet, rows=count, place=0, seed=1)
        again = _row_of(bench, name, unet, rows=count, place=0, seed=1)
        moved = [_row_of(bench, name, unet, rows=count, place=place, seed=1) for place in places[1:]]
        others = [_row_of(bench, name, unet, rows=count, place=place, seed=seed) for place in places for seed in (2, 3)]
        bench.note(
            model=name,
            what="unet row",
            dtype=dtype_name(bench.dtype),
            rows=count,
            twice_identical=torch.equal(first, again),
            other_row_identical=all(torch.equal(first, one) for one in moved),
            other_neighbours_identical=all(torch.equal(first, one) for one in others),
            apart=max((first - one).abs().max().item() for one in [again, *moved, *others]),
            from_batch_1=(first - alone).abs().max().item(),
        )
        last = time.monotonic() - started


def _row_of(bench: Bench, name: str, unet: Any, *, rows: int, place: int, seed: int) -> torch.Tensor:
    """Return a certain row's output, from `place` among so many other ones."""
    arch = bench.arch(name)
    one = unet_inputs(arch, 1, device=bench.device, dtype=bench.dtype, seed=99)
    given = unet_inputs(arch, rows, device=bench.device, dtype=bench.dtype, seed=seed)
    for name_, value in one.items():
        if isinstance(value, dict):
            for inner, tensor in value.items():
                given[name_][inner][place] = tensor[0]
        elif value is not None:
            given[name_][place] = value[0]
    made: torch.Tensor = unet(**given, return_dict=False)[0][place].float().clone()
    return made


@torch.inference_mode()
def pictures(bench: Bench, name: str) -> None:
    """Whole pictures: half precision against single, a batch against each alone, and the same batch again."""
    batch, steps = (3, 2) if bench.tiny else (2, 4) if name == "sdxl" else (4, 8)
    seeds, exact = range(batch), None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        bench.check_time(8, f"pictures of {name} in {dtype_name(dtype)}")
        batches = [seeds, seeds, list(reversed(seeds)), [0, *range(100, 99 + batch)], [0]]
        together, again, reversed_, beside, alone = _drawn(bench, name, dtype, batches, steps)
        exact = together if exact is None else exact
        bench.note(
            model=name,
            what="pictures",
            dtype=dtype_name(dtype),
            batch=batch,
            steps=steps,
            contrast=together.std().item(),
            db_from_float32=None if dtype == torch.float32 else psnr(together, exact),
            db_batch_from_alone=psnr(together[:1], alone),
            twice_identical=torch.equal(together, again),
            other_row_identical=torch.equal(together, reversed_.flip(0)),
            other_neighbours_identical=torch.equal(together[0], beside[0]),
        )
        bench.release()


def _drawn(
    bench: Bench, name: str, dtype: torch.dtype, batches: Sequence[Sequence[int]], steps: int
) -> list[torch.Tensor]:
    """Return the pictures of some batches in 0…255, as they are stored."""
    pipeline = make_pipeline(bench.arch(name), device=bench.device, dtype=dtype)
    with _no_tf32():
        drawn = [draw_pictures(pipeline, bench.arch(name), seeds, steps=steps) for seeds in batches]
    return [(one.float() * 255).round().clamp(0, 255).cpu() for one in drawn]


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of pictures in 0…255, in dB: 100 for equal ones, 0 for NaN."""
    error = ((one - other) ** 2).mean().item()
    if math.isnan(error):
        return 0.0
    return _IDENTICAL_DB if error == 0 else min(_IDENTICAL_DB, 10 * math.log10(255**2 / error))


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """Compute in single precision as such: PyTorch allows TF32 in convolutions by itself."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
