"""Where a model's files are on this machine, and what its own configuration in them says; found out without torch."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage.spec.models import SINGLE_FILE, DiffusersModel, Lora, Model, Weights, wrong_source
from storage.spec.single_file import SingleFile, look_into, scheduler_settings

#: The models that come with the farm, each a folder in Diffusers layout.
SHIPPED = Path(__file__).parents[2] / "worker" / "models"
#: How single files are put together: a folder for each family, without weights; and CLIP's vocabulary.
CONFIGURATIONS = SHIPPED.with_name("configurations")
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
    if source.startswith("shipped:") or not source.strip() or wrong_source(source):
        # What is wrong is told of what stands there.
        return source
    path = folder.absolute() / at_home(source)
    if _HUB_ID.fullmatch(source) and not is_there(path) and not source.endswith(SINGLE_FILE):
        return source
    return os.path.normpath(path)


def at_home(source: str) -> Path:
    """Return a path with the home folder in place of `~`; of a user that is not there, it stays as it is."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def is_there(path: Path) -> bool:
    """Tell whether there is such a file or folder; names that the system does not take are of none."""
    try:
        return path.exists()
    except OSError:
        return False


def named_folder(weights: Weights | Lora) -> Path | None:
    """Return the folder (of a LoRA, perhaps the file) that a source names, there or not; None if it is on the hub."""
    origin, _, name = weights.source.partition(":")
    if origin == "shipped":
        return SHIPPED / name
    return Path(weights.source) if _is_path(weights.source) else None


def _is_path(source: str) -> bool:
    return Path(source).is_absolute() or source.endswith(SINGLE_FILE) or not _HUB_ID.fullmatch(source)


def public_source(weights: Weights | Lora) -> str:
    """Return a source as callers may read it: of a folder or file of one's own only its name."""
    folder = None if weights.source.startswith("shipped:") else named_folder(weights)
    return weights.source if folder is None else folder.name


def without_folders(text: str, entry: DiffusersModel | Lora) -> str:
    """Return a text, such as an error, in which a model's own folders are told by their names alone."""
    named = entry.parts if isinstance(entry, DiffusersModel) else [entry]
    folders = [folder for weights in named if (folder := named_folder(weights)) is not None]
    # The longer ones first: one may be within another.
    for path in sorted(folders, key=lambda folder: len(str(folder)), reverse=True):
        text = text.replace(str(path), path.name)
    return text


def not_found(entry: Model | Lora) -> list[str]:
    """Return the folders and files that a model or LoRA names and that are not there; nothing can fetch those."""
    named = entry.parts if isinstance(entry, DiffusersModel) else [entry]
    folders = [named_folder(weights) for weights in named if isinstance(weights, Weights | Lora)]
    folders += [
        Path(part.config) for part in named if isinstance(part, Weights) and part.config and _is_path(part.config)
    ]
    return [str(folder) for folder in folders if folder is not None and not is_there(folder)]


def configs_of(entry: Model | Lora) -> list[Weights]:
    """Return the repositories of the hub whose configuration files an entry's single files are put together by."""
    parts = entry.parts if isinstance(entry, DiffusersModel) else ()
    named = (Weights(source=weights.config) for weights in parts if weights.config is not None)
    return [config for config in named if named_folder(config) is None]


def local_folder(weights: Weights) -> Path:
    """Return where weights are on this machine, or would be if they were fetched from the hub."""
    return named_folder(weights) or _snapshot(weights)


def configuration_folder(weights: Weights) -> Path:
    """Return where the configuration files of weights are: of a single file, those that its `config` or itself names.

    Raises OSError or ValueError if a single file, which says so, cannot be read, or is of a family without any.
    """
    if weights.config is not None:
        return local_folder(Weights(source=weights.config))
    if not weights.is_single_file:
        return local_folder(weights)
    found = look_into(local_folder(weights))
    if found.kind != "checkpoint" or found.family is None:
        raise ValueError(f"it is {found.words}")
    return CONFIGURATIONS / found.family


def single_file(model: Weights) -> SingleFile | None:
    """Return what a single file says of itself; None for what is none, or is not here or cannot be read."""
    if not model.is_single_file:
        return None
    try:
        return look_into(local_folder(model))
    except (OSError, ValueError):
        return None


def own_configuration(model: Weights) -> OwnConfiguration | None:
    """Return what a model's own files say of it; None where they are not on this machine."""
    found = _configuration_of(model.source, model.revision, model.config, remembered())
    settings = own_scheduler_settings(model)
    if found is None or not settings:
        return found
    scheduler = own_scheduler_class(str(found.scheduler), settings)
    return replace(found, scheduler=scheduler, scheduler_settings={**found.scheduler_settings, **settings})


def own_scheduler_settings(model: Weights) -> dict[str, Any]:
    """Return what a single file's sampler is set to, beside the settings of its family: as the registry or it says."""
    found = single_file(model)
    if found is None or not isinstance(model, DiffusersModel):
        return {}
    zero_snr = found.zero_snr if model.zero_snr is None else model.zero_snr
    return scheduler_settings(model.prediction_type or found.prediction, zero_snr=zero_snr)


def own_scheduler_class(name: str, settings: Mapping[str, Any]) -> str:
    """Return the class of a single file's sampler: its family's, or DDIM where that cannot begin without signal."""
    return "DDIMScheduler" if settings.get("rescale_betas_zero_snr") and name == "PNDMScheduler" else name


def own_pipeline(model: Weights) -> str | None:
    """Return the class that a model's `model_index.json` names; None where it is not on this machine."""
    return _pipeline_of(model.source, model.revision, model.config, remembered())


def remembered() -> int:
    """Return a number that stays the same for some seconds: files are read once for all rows of a manifest."""
    return int(time.monotonic() // _REMEMBERED_SECONDS)


@lru_cache(maxsize=256)
def _configuration_of(source: str, revision: str | None, config: str | None, _when: int) -> OwnConfiguration | None:
    try:
        return _configuration_in(configuration_folder(Weights(source=source, revision=revision, config=config)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@lru_cache(maxsize=256)
def _pipeline_of(source: str, revision: str | None, config: str | None, _when: int) -> str | None:
    try:
        folder = configuration_folder(Weights(source=source, revision=revision, config=config))
        name = _read(folder / "model_index.json")["_class_name"]
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
