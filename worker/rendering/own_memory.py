"""Weights in memory of their own: on a CPU, what is loaded of safetensors files is these files, mapped.

Whoever writes over such a file would change what is drawn, or end the process where the file becomes shorter.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

#: Smaller tensors are copied by one thread: a model has hundreds of them, and for each, several would wait for one
#: another. Beside busy programs, the weights of 230 MB took 1.2 s to load instead of 1.7 s with two threads that sleep
#: while they wait, and 6.7 s with two that spin.
_LARGE_BYTES = 16 * 2**20


def copy_to_memory(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors that may be parts of mapped files memory of their own; on a GPU they have it."""
    mapped = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    large = [tensor for tensor in mapped if tensor.nbytes >= _LARGE_BYTES]
    with _one_thread():
        for tensor in mapped:
            if tensor.nbytes < _LARGE_BYTES:
                tensor.data = tensor.data.clone()
    for tensor in large:
        tensor.data = tensor.data.clone()


def copy_parts(parts: Iterable[Any]) -> None:
    """Do so for the weights of modules, among whatever else a pipeline has."""
    for part in parts:
        if isinstance(part, torch.nn.Module):
            copy_to_memory(part.parameters())
            copy_to_memory(part.buffers())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
