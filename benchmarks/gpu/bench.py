"""What a part of the benchmark is given: the device, what was measured before it, and where its rows go."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.architectures import Architecture, architecture, make_pipeline

Row = dict[str, Any]


class NoTimeLeft(Exception):
    """Raised by a part whose time is up; what it has measured stands."""


class MachineLacks(Exception):
    """Raised by a part for which this machine lacks something; the message names it."""


@dataclass(kw_only=True)
class Bench:
    """One run on one device, in the process that owns it."""

    device: str
    tiny: bool
    #: For what parts write to disk; removed at the end of the run.
    folder: Path
    #: All rows so far, those of parts before this process too.
    rows: list[Row]
    send: Callable[[Row], None]
    part: str = ""
    #: When the part must have ended (`time.monotonic`).
    deadline: float = float("inf")
    _pipelines: dict[tuple[str, torch.dtype], Any] = field(default_factory=dict)

    # -- rows --------------------------------------------------------------------------------------------------------

    def note(self, **figures: Any) -> None:
        """Send a row: what identifies it first, then its figures."""
        row = {"part": self.part, **figures}
        self.rows.append(row)
        self.send(row)

    def found(self, part: str, **labels: Any) -> list[Row]:
        """Return the rows of a part that have these labels and did not fail."""
        return [
            row
            for row in self.rows
            if row["part"] == part
            and "failed" not in row
            and "skipped" not in row
            and all(row.get(name) == value for name, value in labels.items())
        ]

    def gemm_tflops(self, dtype: torch.dtype) -> float | None:
        """Return the matrix-product rate that was measured in this run; None if that failed."""
        rows = self.found("ceilings", what="gemm", dtype=dtype_name(dtype))
        return rows[-1]["tflops"] if rows else None

    def flop(self, name: str) -> tuple[float, float]:
        """Return the TFLOP of a UNet row and of a decoded picture, as counted in this run. Raises MachineLacks."""
        rows = self.found("flop", model=name)
        if not rows:
            raise MachineLacks(f"FLOP of {name}: they were not counted")
        return rows[-1]["unet_tflop"], rows[-1]["decode_tflop"]

    def efficiency(self, tflop: float, seconds: float, dtype: torch.dtype) -> float | None:
        """Return the share of the matrix-product rate at which so many TFLOP were done."""
        rate = self.gemm_tflops(dtype)
        return None if rate is None else tflop / seconds / rate

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """Seconds until the part must have ended."""
        return self.deadline - time.monotonic()

    def check_time(self, seconds: float, what: str) -> None:
        """Raise NoTimeLeft unless so many seconds are left for something."""
        if self.left < seconds:
            raise NoTimeLeft(f"no time left for {what}: about {seconds:.0f} s, {max(0.0, self.left):.0f} s were left")

    def sync(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def once(self, work: Callable[[], object]) -> float:
        """Return the seconds that one call takes, the device's included."""
        self.sync()
        started = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - started

    def seconds(self, work: Callable[[], object], *, repeat: int = 5, warm: int = 2) -> dict[str, float]:
        """Return median, least and greatest of several calls after some to warm up; fewer where they take long."""
        if self.tiny:
            repeat, warm = 2, 1
        longest = max(self.once(work) for _ in range(warm))
        if longest > 1:
            repeat = min(repeat, 3)
        taken = [self.once(work) for _ in range(repeat)]
        return spread(taken)

    # -- the device --------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """The precision of most measurements: single on a CPU, where half is slow."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def arch(self, name: str) -> Architecture:
        return architecture(name, tiny=self.tiny)

    def pipeline(self, name: str, dtype: torch.dtype | None = None) -> Any:
        """Return a pipeline with random weights on the device; made once, until `forget`."""
        key = (name, dtype or self.dtype)
        if key not in self._pipelines:
            self._pipelines[key] = make_pipeline(self.arch(name), device=self.device, dtype=key[1])
        return self._pipelines[key]

    def forget(self) -> None:
        """Give back the memory of all pipelines."""
        self._pipelines.clear()
        self.release()

    def release(self) -> None:
        """Give back what nothing refers to any more."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def knee(self, name: str) -> int:
        """Return the smallest batch within 3 % of the best time per picture in the sweep; 8 where there was none."""
        rows = self.found("eager", model=name, what="unet")
        if self.tiny or not rows:
            return 4 if self.tiny else 8
        best = min(row["ms_per_picture_step"] for row in rows)
        return min(int(row["batch"]) for row in rows if row["ms_per_picture_step"] <= 1.03 * best)


def spread(taken: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some figures."""
    return {"median": statistics.median(taken), "min": min(taken), "max": max(taken)}


def dtype_name(dtype: torch.dtype) -> str:
    """Return a precision's name as registries and recipes write it."""
    return str(dtype).removeprefix("torch.")
