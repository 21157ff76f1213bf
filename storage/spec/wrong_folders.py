"""Why the farm cannot draw with a folder in Diffusers layout, told from the names in it before anything is loaded."""

import json
import re
import time
from functools import lru_cache
from pathlib import Path

from storage.spec.model_files import named_folder
from storage.spec.models import Weights

#: The name of a file of weights: what it holds, its variant, and its place among shards, before or after that.
_NAME = re.compile(r"(?P<name>[^.]+?)(-\d{5}-of-\d{5})?(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5})?\.safetensors")
#: Weights that are pickled, by the ends of their names.
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
#: What runs pipelines of other kinds, by the beginnings of their classes.
_OTHERS = {"Onnx": "ONNX Runtime", "ORT": "ONNX Runtime", "Flax": "JAX", "OV": "OpenVINO"}
#: Files may be fetched meanwhile.
_REMEMBERED_SECONDS = 5


def variant_of(file: Path) -> str | None:
    """Return of which variant a file of weights is, such as `fp16`; None: of none."""
    found = _NAME.fullmatch(file.name)
    return found["variant"] if found else None


def wrong_in_folder(weights: Weights) -> str | None:
    """Return what keeps a pipeline's folder from being loaded, with what to do; None: nothing, or it is not here."""
    path = None if weights.is_single_file else named_folder(weights)
    if path is None:
        return None
    return _wrong_in(path, weights.variant, int(time.monotonic() / _REMEMBERED_SECONDS))


def only_variant(path: Path) -> str | None:
    """Return the one variant of which all weights of a pipeline's folder are; None: there are others, or none."""
    found = {variant_of(file) for file in path.glob("*/*.safetensors")}
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=256)
def _wrong_in(path: Path, variant: str | None, _when: int) -> str | None:
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        kind = str(index.get("_class_name"))
        for start, runner in _OTHERS.items():
            if kind.startswith(start):
                return f"it is a {kind}, for {runner}; take the same model for PyTorch (safetensors)"
        parts = [name for name, what in index.items() if isinstance(what, list) and what and what[0]]
        return next((wrong for name in parts if (wrong := _wrong_part(path / name, variant))), None)
    except (OSError, ValueError, AttributeError):
        # Told by whoever reads it.
        return None


def _wrong_part(part: Path, variant: str | None) -> str | None:
    if not part.is_dir():
        return None
    files = [file for file in part.iterdir() if file.suffix == ".safetensors"]
    if not files:
        pickled = sorted(file.name for file in part.iterdir() if file.name.endswith(_PICKLED))
        return (
            f"its weights are pickled ({part.name}/{pickled[0]}), and such a file can carry code that runs when it is "
            "read; make safetensors files of them: python -m worker.rendering.to_safetensors FILE"
            if pickled
            else None
        )
    variants = {variant_of(file) for file in files}
    if variant is None and None not in variants:
        only = min(filter(None, variants))
        return f'{part.name} has weights of the variant {only} alone: add variant = "{only}" to its entry'
    # Of other variants a folder may have the index alone.
    ending = f".index.{variant}.json" if variant else ".safetensors.index.json"
    for listed in part.glob(f"*{ending}"):
        named = set(json.loads(listed.read_text(encoding="utf-8"))["weight_map"].values())
        if gone := sorted(named - {file.name for file in files}):
            return f"{part.name} lacks {gone[0]}, which {listed.name} names; fetch or copy it again"
    return None
