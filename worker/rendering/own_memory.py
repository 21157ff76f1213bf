"""Weights in memory of their own: on a CPU, what is loaded of safetensors files is these files, mapped.

Whoever writes over such a file would change what is drawn, or end the process where the file becomes shorter.
"""

from collections.abc import Iterable
from typing import Any

import torch


def copy_to_memory(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors that may be parts of mapped files memory of their own; on a GPU they have it."""
    for tensor in tensors:
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def copy_parts(parts: Iterable[Any]) -> None:
    """Do so for the weights of modules, among whatever else a pipeline has."""
    for part in parts:
        if isinstance(part, torch.nn.Module):
            copy_to_memory(part.parameters())
            copy_to_memory(part.buffers())
