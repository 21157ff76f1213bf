"""The last registry that was right, kept beside what this machine keeps: a worker that must start again while the file
is being edited goes on with it."""

import logging
import os
from pathlib import Path

from storage.errors import BadSettings
from storage.settings import Settings
from storage.spec.registry import Registry, parse_registry, read_registry

log = logging.getLogger(__name__)


def keep_registry(settings: Settings) -> None:
    """Keep a copy of the registry's file as it is now, which must be right; none is kept of the built-in one."""
    path = settings.local_models_file
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        kept = _kept(settings)
        if kept.exists() and kept.read_text(encoding="utf-8") == text:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f"{kept.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(kept)
    except (OSError, UnicodeDecodeError) as error:
        log.warning("no copy of the model registry is kept", extra={"file": str(path), "error": error})


def registry_or_last(settings: Settings) -> Registry:
    """Read the registry, or the last one that was right, if there is a copy. Raises BadSettings."""
    try:
        return read_registry(settings)
    except BadSettings as error:
        try:
            text = _kept(settings).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise error from None
        if not text:
            raise
        path = settings.local_models_file
        last = parse_registry(text, where=f"{path}, as it was", folder=path.absolute().parent)
        log.error("the model registry is wrong; the last one that was right is used", extra={"error": error})
        return last


def _kept(settings: Settings) -> Path:
    return settings.home.absolute() / "models.last.toml"
