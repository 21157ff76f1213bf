"""How much memory a model's weights take once they are loaded: from the headers of its files, without torch."""

import json
import math
from pathlib import Path

from storage.spec.model_files import local_folder
from storage.spec.models import DiffusersModel, Model, Weights
from storage.spec.single_file import look_into

#: No header is longer.
_LONGEST_HEADER = 100_000_000
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def loaded_bytes(model: Model) -> int | None:
    """Return the bytes of a model's weights, ControlNets included, as a CPU loads them.

    None: its files are not on this machine yet, or cannot be read.
    """
    if not isinstance(model, DiffusersModel):
        return 0
    # "auto" is single precision on a CPU, whatever the files are in.
    each = _BYTES.get(model.dtype, 4)
    try:
        return each * sum(map(count_parameters, model.parts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def count_parameters(weights: Weights) -> int:
    """Count the numbers in all files of weights that are loaded. Raises OSError, ValueError and others."""
    folder = local_folder(weights)
    if weights.is_single_file:
        # Training averages, which some checkpoints hold beside the weights, are not loaded.
        tensors = look_into(folder).header.tensors.items()
        return sum(tensor.numbers for name, tensor in tensors if not name.startswith("model_ema."))
    # A ControlNet's file is in its folder itself, a pipeline's are in those of its parts.
    files = [file for pattern in ("*.safetensors", "*/*.safetensors") for file in folder.glob(pattern)]
    variant = [weights.variant] if weights.variant else []
    counted = [_numbers_in(file) for file in files if file.stem.split(".")[1:] == variant]
    if not counted:
        raise FileNotFoundError(f"no weights in {folder}")
    return sum(counted)


def _numbers_in(file: Path) -> int:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{file} is no safetensors file")
        header = json.loads(opened.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
