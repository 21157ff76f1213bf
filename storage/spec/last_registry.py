"""The last registry that was right, kept beside what this machine keeps: a worker that must start again while the file
is being edited goes on with it."""

import logging
import os
from pathlib import Path

from storage.errors import BadSettings
from storage.settings import Settings
from storage.spec.registry import Registry, parse_registry, read_registry
from storage.spec.registry_text import read_text

log = logging.getLogger(__name__)


def keep_registry(settings: Settings) -> None:
    """Keep a copy of the registry's file as it is now, which must be right; none is kept of the built-in one."""
    path = settings.local_models_file
    try:
        text = read_text(path) if path.exists() else ""
        kept = _kept(settings)
        if kept.exists() and read_text(kept) == text:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f"{kept.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8", newline="")
        unfinished.replace(kept)
    except (OSError, BadSettings) as error:
        log.warning("no copy of the model registry is kept", extra={"file": str(path), "error": error})


def registry_or_last(settings: Settings) -> Registry:
    """Read the registry, or the last one that was right, if there is a copy. Raises BadSettings."""
    try:
        return read_registry(settings)
    except BadSettings as error:
        try:
            text = read_text(_kept(settings))
        except (OSError, BadSettings):
            raise error from None
        if not text:
            raise
        path = settings.local_models_file
        last = parse_registry(text, where=f"{path}, as it was", folder=path.absolute().parent)
        log.error("the model registry is wrong; the last one that was right is used", extra={"error": error})
        return last


def _kept(settings: Settings) -> Path:
    return settings.home.absolute() / "models.last.toml"
