"""Loads one model again and again: as a worker does when it switches to it, by `from_pretrained`, or its bytes alone.

Makes the model first: the shipped one with a UNet that is large enough for its bytes to count, and random weights. A
request says `how`; the answer is how many seconds it took.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from benchmarks.peers.answering import answer_requests
from storage.process.garbage import spare_what_is_loaded
from storage.spec.loaded_size import loaded_bytes
from storage.spec.models import DiffusersModel
from worker.devices import Device
from worker.process.cores import usable_cores, usable_memory
from worker.process.cpu_plan import plan_cpu
from worker.rendering.backend import BackendResources
from worker.rendering.diffusers_backend import DiffusersBackend
from worker.rendering.input_cache import InputCache

_CHANNELS = {"quick": (32, 64), "usual": (96, 192, 384)}
_PIECE = 16 * 2**20


def main() -> None:
    shipped, folder, size = sys.argv[1:]
    model = Path(folder) / "model"
    _make(shipped, model, _CHANNELS[size])
    resources = BackendResources(inputs=InputCache(_Nothing()), loras={}, home=Path(folder))
    backend = DiffusersBackend(Device("cpu", 0), resources)
    entry = DiffusersModel(alias="switched", kind="diffusers", source=str(model), pipeline="StableDiffusionPipeline")
    ways: dict[str, Callable[[], Any]] = {
        "farm": lambda: _by_threads(_threads_of_a_worker(entry), lambda: backend.load(entry)),
        "from_pretrained": lambda: _as_a_user_does(model),
        "bytes": lambda: _copied(model),
    }

    def load(request: dict[str, Any]) -> dict[str, float]:
        started = time.perf_counter()
        loaded = ways[request["how"]]()
        if request["how"] != "bytes":
            _touch(getattr(loaded, "pipeline", loaded))
        seconds = time.perf_counter() - started
        del loaded
        return {"seconds": seconds, "bytes": sum(file.stat().st_size for file in model.rglob("*.safetensors"))}

    # As a worker does when it starts; else a collection of 0.3 s comes with some load or other, of whichever way.
    spare_what_is_loaded()
    answer_requests(load)


def _threads_of_a_worker(model: DiffusersModel) -> int:
    """Return how many threads a worker has on this machine that serves just this model."""
    sizes = {model.alias: loaded_bytes(model)}
    return plan_cpu(cores=usable_cores(), memory=usable_memory(), models=sizes).threads


def _by_threads(threads: int, load: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return load()
    finally:
        # The other ways are as their users have them.
        torch.set_num_threads(before)


class _Nothing:
    """No inputs are asked for."""

    def get(self, key: str) -> bytes:
        raise AssertionError(f"{key} is asked for")


def _as_a_user_does(folder: Path | str) -> Any:
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)


def _make(shipped: str, folder: Path, channels: tuple[int, ...]) -> None:
    pipeline = _as_a_user_does(shipped)
    settings = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    blocks = len(channels)
    unet = UNet2DConditionModel.from_config(
        settings
        | {
            "block_out_channels": channels,
            "down_block_types": ("CrossAttnDownBlock2D",) * blocks,
            "up_block_types": ("CrossAttnUpBlock2D",) * blocks,
            "layers_per_block": 2,
        }
    )
    pipeline.register_modules(unet=unet)
    pipeline.save_pretrained(folder)


def _touch(pipeline: Any) -> None:
    """Read something of every page: files that are mapped into memory are there only once they are read."""
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            for tensor in module.parameters():
                tensor.detach().flatten()[::1024].sum()


def _copied(folder: Path) -> list[bytearray]:
    """The weights' bytes in memory of their own."""
    copies = []
    for file in sorted(folder.rglob("*.safetensors")):
        into = bytearray(file.stat().st_size)
        with file.open("rb", buffering=0) as there:
            view = memoryview(into)
            while n := there.readinto(view[:_PIECE]):
                view = view[n:]
        copies.append(into)
    return copies


if __name__ == "__main__":
    main()
