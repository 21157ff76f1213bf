"""Makes a safetensors file of a pickled one (.ckpt, .pt, .pth, .bin), running nothing of what is in it.

python -m worker.rendering.to_safetensors FILE [NEW]
"""

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file

from storage.spec.models import PICKLED, SINGLE_FILE
from storage.spec.safetensors_header import ARCHIVE, BEGINNINGS, read_header
from storage.spec.single_file import listed


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(dir_okay=False, path_type=Path), required=False)
def main(file: Path, new: Path | None) -> None:
    """Write the tensors of a pickled file as a safetensors file, beside it unless NEW names another place."""
    target = new or file.with_suffix(SINGLE_FILE)
    if target.suffix != SINGLE_FILE:
        sys.exit(f"{target}: a safetensors file ends in {SINGLE_FILE}")
    if target.exists():
        sys.exit(f"{target} is there already; name another file")
    try:
        tensors, others = weights_in(file)
    except ValueError as error:
        sys.exit(f"{file}: {error}")
    # Whole or not at all: a conversion that is interrupted leaves no file that looks like one.
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        save_file(tensors, unfinished, metadata={"format": "pt"})
        unfinished.rename(target)
    except OSError as error:
        sys.exit(f"{target}: cannot be written ({error.strerror or error})")
    finally:
        unfinished.unlink(missing_ok=True)
    click.echo(f"{target}: {len(tensors)} tensors" + (f"; left out, as no tensors: {listed(others)}" if others else ""))


def weights_in(file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors of a pickled file by name, and the names of what else stands among them.

    Raises ValueError if reading it could run code, if it has none, or is no such file.
    """
    found = _read(file)
    # Trainers put the weights beside their own state, textual inversions into a table of one.
    for key in ("state_dict", "string_to_param", "params_ema", "params", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = {"emb_params": next(iter(found[key].values()))} if key == "string_to_param" else found[key]
            break
    entries = list(found.items()) if isinstance(found, Mapping) else []
    tensors = {str(name): _written(str(name), one) for name, one in entries if isinstance(one, torch.Tensor)}
    if not tensors:
        raise ValueError(f"there are no tensors in it by name; {', '.join(PICKLED)} files of weights have them")
    others = [str(name) for name, one in entries if not isinstance(one, torch.Tensor)]
    if len(tensors) + len(others) < len(entries):
        raise ValueError("two of its tensors have names that are written alike")
    return tensors, others


def _read(file: Path) -> Any:
    _check_kind(file)
    try:
        # With weights_only, PyTorch reads tensors and plain values, and nothing that could run.
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(
            f"it holds more than tensors and could run code; convert it where you trust it ({reason})"
        ) from None
    except Exception as error:  # noqa: BLE001 - what is damaged can end in anything
        reason = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        raise ValueError(f"it cannot be read; fetch it again ({reason})") from None


def _check_kind(file: Path) -> None:
    """Raise ValueError for a file of another kind under this name."""
    with file.open("rb") as opened:
        begins = opened.read(8)
    if not begins:
        raise ValueError("it is empty; fetch or copy it again")
    for start, words in BEGINNINGS.items():
        if begins.startswith(start) and start != ARCHIVE:
            raise ValueError(words)
    try:
        read_header(file)
    except ValueError:
        return
    raise ValueError(f"it is a safetensors file by another name; call it {file.stem}{SINGLE_FILE}")


def _written(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as safetensors has it. Raises ValueError for what it has not."""
    if tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided:
        kind = "quantized" if tensor.is_quantized else "without contents" if tensor.is_meta else "sparse"
        raise ValueError(f"{name} is {kind}, which a safetensors file cannot have")
    # Shared memory, which safetensors refuses, is written out for each name.
    return tensor.detach().clone().contiguous()


if __name__ == "__main__":
    main()
