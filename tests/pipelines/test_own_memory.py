"""Weights get memory of their own: what files they came of does not matter any more, and threads need not wait."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from worker.rendering.own_memory import copy_to_memory


class Copies(TorchDispatchMode):
    """Notes by how many threads tensors of how many values are copied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.clone.default:
            self.seen[args[0].numel()] = torch.get_num_threads()
        return function(*args, **(kwargs or {}))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_tensors_are_copied_by_one_thread_and_large_ones_by_all() -> None:
    small, large = torch.zeros(1000), torch.zeros(4 * 2**20)
    with Copies() as copies:
        copy_to_memory([large, small])
    assert copies.seen == {1000: 1, 4 * 2**20: 2}
    assert torch.get_num_threads() == 2


def test_what_was_mapped_stays_what_it_was_when_its_file_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.full((100,), 7.0)}, file)
    tensor = safetensors.torch.load_file(file)["a"]
    copy_to_memory([tensor])
    with file.open("r+b") as over:
        over.write(b"\0" * file.stat().st_size)
    assert tensor.tolist() == [7.0] * 100
