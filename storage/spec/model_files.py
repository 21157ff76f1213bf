"""Where a model's files are on this machine, and what its own configuration in them says; found out without torch."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage.spec.models import DiffusersModel, Lora, Model, Weights

#: The models that come with the farm, each a folder in Diffusers layout.
SHIPPED = Path(__file__).parents[2] / "worker" / "models"
#: A repository of the hub: its owner, if it has one, and its name.
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w][\w.-]*)?")
#: The part of a pipeline that denoises has one of these names.
DENOISERS = ("unet", "transformer")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
#: Models may be fetched meanwhile.
_REMEMBERED_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class OwnConfiguration:
    """What a model's files say of it."""

    #: The class of its pipeline.
    pipeline: str
    #: The class of its own sampler.
    scheduler: str | None
    #: The settings of its own sampler, as far as its file has them.
    scheduler_settings: Mapping[str, Any]
    #: The layers of each of its text encoders.
    text_encoder_layers: tuple[int, ...]
    #: What `model_index.json` says: the class of each part, and settings of the pipeline itself.
    index: Mapping[str, Any]
    #: The settings of the part that denoises.
    denoiser: Mapping[str, Any]


def resolved_source(source: str, folder: Path) -> str:
    """Return a source as it is meant in a registry in this folder: a relative path starts there, wherever one stands.

    What can be both is a folder if there is one, and otherwise a repository of the hub.
    """
    if source.startswith("shipped:"):
        return source
    path = folder.absolute() / Path(source).expanduser()
    if _HUB_ID.fullmatch(source) and not path.exists():
        return source
    return os.path.normpath(path)


def named_folder(weights: Weights | Lora) -> Path | None:
    """Return the folder (of a LoRA, perhaps the file) that a source names, there or not; None if it is on the hub."""
    origin, _, name = weights.source.partition(":")
    if origin == "shipped":
        return SHIPPED / name
    path = Path(weights.source)
    return path if path.is_absolute() or not _HUB_ID.fullmatch(weights.source) else None


def public_source(weights: Weights | Lora) -> str:
    """Return a source as callers may read it: of a folder or file of one's own only its name."""
    folder = None if weights.source.startswith("shipped:") else named_folder(weights)
    return weights.source if folder is None else folder.name


def without_folders(text: str, entry: DiffusersModel | Lora) -> str:
    """Return a text, such as an error, in which a model's own folders are told by their names alone."""
    named = [entry, *entry.controlnets] if isinstance(entry, DiffusersModel) else [entry]
    folders = [folder for weights in named if (folder := named_folder(weights)) is not None]
    # The longer ones first: one may be within another.
    for path in sorted(folders, key=lambda folder: len(str(folder)), reverse=True):
        text = text.replace(str(path), path.name)
    return text


def not_found(entry: Model | Lora) -> list[str]:
    """Return the folders and files that a model or LoRA names and that are not there; nothing can fetch those."""
    named = [entry, *entry.controlnets] if isinstance(entry, DiffusersModel) else [entry]
    folders = [named_folder(weights) for weights in named if isinstance(weights, Weights | Lora)]
    return [str(folder) for folder in folders if folder is not None and not folder.exists()]


def local_folder(weights: Weights) -> Path:
    """Return where weights are on this machine, or would be if they were fetched from the hub."""
    return named_folder(weights) or _snapshot(weights)


def own_configuration(model: Weights) -> OwnConfiguration | None:
    """Return what a model's own files say of it; None where they are not on this machine."""
    return _configuration_of(model.source, model.revision, remembered())


def own_pipeline(model: Weights) -> str | None:
    """Return the class that a model's `model_index.json` names; None where it is not on this machine."""
    return _pipeline_of(model.source, model.revision, remembered())


def remembered() -> int:
    """Return a number that stays the same for some seconds: files are read once for all rows of a manifest."""
    return int(time.monotonic() // _REMEMBERED_SECONDS)


@lru_cache(maxsize=256)
def _configuration_of(source: str, revision: str | None, _when: int) -> OwnConfiguration | None:
    try:
        return _configuration_in(local_folder(Weights(source=source, revision=revision)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@lru_cache(maxsize=256)
def _pipeline_of(source: str, revision: str | None, _when: int) -> str | None:
    try:
        name = _read(local_folder(Weights(source=source, revision=revision)) / "model_index.json")["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _configuration_in(folder: Path) -> OwnConfiguration:
    """Read a pipeline's configuration. Raises whatever is wrong."""
    index = _read(folder / "model_index.json")
    own = (index.get("scheduler") or [None, None])[1]
    settings = _read(folder / "scheduler" / "scheduler_config.json") if own else {}
    layers = [
        _read(folder / part / "config.json").get("num_hidden_layers")
        for part in _TEXT_ENCODERS
        if (index.get(part) or [None])[0]
    ]
    return OwnConfiguration(
        pipeline=str(index["_class_name"]),
        scheduler=own,
        scheduler_settings=settings,
        text_encoder_layers=tuple(count for count in layers if isinstance(count, int)),
        index=index,
        denoiser=next((_read(file) for part in DENOISERS if (file := folder / part / "config.json").is_file()), {}),
    )


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _snapshot(weights: Weights) -> Path:
    """Return the folder of a repository's files at the wanted revision, if they were fetched."""
    kept = _hub_cache() / f"models--{weights.source.replace('/', '--')}"
    revision = weights.revision or "main"
    branch = kept / "refs" / revision
    return kept / "snapshots" / (branch.read_text().strip() if branch.is_file() else revision)


def _hub_cache() -> Path:
    """Return the cache folder of huggingface_hub, as documented there."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
