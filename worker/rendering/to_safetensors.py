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
        tensors = tensors_in(file)
    except ValueError as error:
        sys.exit(f"{file}: {error}")
    # Whole or not at all: a conversion that is interrupted leaves no file that looks like one.
    unfinished = target.with_name(f"{target.name}.unfinished")
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(target)
    click.echo(f"{target}: {len(tensors)} tensors")


def tensors_in(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a pickled file by name. Raises ValueError if reading it could run code, or it has none."""
    try:
        # With weights_only, PyTorch reads tensors and plain values, and nothing that could run.
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(
            f"it holds more than tensors and could run code; convert it where you trust it ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"it cannot be read: {str(error).splitlines()[0]}") from None
    # Trainers put the weights beside their own state, textual inversions into a table of one.
    for key in ("state_dict", "string_to_param", "params_ema", "params"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = {"emb_params": next(iter(found[key].values()))} if key == "string_to_param" else found[key]
            break
    tensors = {
        # Shared memory, which safetensors refuses, is written out for each name.
        str(name): tensor.detach().clone().contiguous()
        for name, tensor in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(tensor, torch.Tensor)
    }
    if not tensors:
        raise ValueError(f"there are no tensors in it by name; {', '.join(PICKLED)} files of weights have them")
    return tensors


if __name__ == "__main__":
    main()
