"""The process that owns the device: runs the parts that it is told, and says each row as soon as it is measured.

Started by `conductor`, which talks to it in JSON: what to do on standard input, a message a line on standard output.
"""

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, MachineLacks, NoTimeLeft
from benchmarks.gpu.programme import BY_NAME, Part

#: Left for the conductor to write the table.
_LAST_SECONDS = 3.0
_NVIDIA_SMI = ("driver_version", "power.limit", "clocks.max.sm", "pcie.link.gen.max", "pcie.link.width.max")


def main() -> int:
    told = json.loads(sys.stdin.read())
    # Messages only: what libraries print goes to standard error.
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(message: Mapping[str, Any]) -> None:
        messages.write(json.dumps(message, default=str) + "\n")
        messages.flush()

    if told["tiny"]:
        # Threads that wait for one another would cost more than such small models' work.
        torch.set_num_threads(1)
        # Its helpers would each import torch, which takes longer than compiling such small kernels.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    # Its own: compiling is measured cold, and a process that was ended in the middle leaves half a file behind.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(told["folder"]) / f"inductor-{os.getpid()}")
    ends = time.monotonic() + told["seconds"] - _LAST_SECONDS
    send({"device": device(told["device"])})
    bench = Bench(
        device=told["device"],
        tiny=told["tiny"],
        folder=Path(told["folder"]),
        rows=told["rows"],
        send=lambda row: send({"row": row}),
    )
    for name in told["parts"]:
        part = BY_NAME[name]
        # Where it is tried, other programs may be at work.
        allowed = min(part.most * (3 if bench.tiny else 1), ends - time.monotonic())
        send({"begin": name, "seconds": max(0.0, allowed)})
        started = time.monotonic()
        outcome = perform(part, bench, allowed)
        if bench.device == "cuda" and outcome == "failed":
            # Raises if the error broke the device: then only another process can go on.
            torch.cuda.synchronize()
        send({"end": name, "seconds": round(time.monotonic() - started, 2), "outcome": outcome})
    return 0


def perform(part: Part, bench: Bench, allowed: float) -> str:
    """Run one part, whatever it raises: "done", "cut short", "skipped" or "failed", which a row explains."""
    bench.part, bench.deadline = part.kind, time.monotonic() + allowed
    labels = dict(part.arguments)
    labels = {"model" if key == "name" else key: value for key, value in labels.items()}
    if gone := part.missing():
        bench.note(**labels, skipped=gone)
        return "skipped"
    if allowed < part.least:
        bench.note(**labels, skipped=f"no time left: it takes about {part.least:.0f} s")
        return "skipped"
    try:
        part.load()(bench, **part.arguments)
    except NoTimeLeft as error:
        bench.note(**labels, skipped=str(error))
        return "cut short"
    except MachineLacks as error:
        bench.note(**labels, skipped=str(error))
        return "skipped"
    except Exception as error:  # noqa: BLE001 - a part can raise anything; it costs its own rows
        traceback.print_exc()
        bench.note(**labels, failed=" ".join(f"{type(error).__name__}: {error}".split())[:400])
        failed = True
    else:
        failed = False
    # Outside of the handler: what was caught there holds tensors.
    bench.release()
    return "failed" if failed else "done"


def device(kind: str) -> dict[str, Any]:
    """Return what the device calls itself, its memory, and what drives it."""
    if kind != "cuda":
        return {"name": platform.machine(), "kind": kind, "threads": torch.get_num_threads()}
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --device cpu --tiny tries the benchmark itself")
    properties = torch.cuda.get_device_properties(0)
    found = {
        "name": torch.cuda.get_device_name(0),
        "kind": kind,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    try:
        asked = subprocess.run(  # noqa: S603
            ["nvidia-smi", f"--query-gpu={','.join(_NVIDIA_SMI)}", "--format=csv,noheader", "--id=0"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return found | {"driver": None, "nvidia_smi": f"{type(error).__name__}: {error}"}
    values = dict(zip(_NVIDIA_SMI, map(str.strip, asked.stdout.split(",")), strict=False))
    return found | {"driver": values.pop("driver_version", None)} | values


if __name__ == "__main__":
    sys.exit(main())
