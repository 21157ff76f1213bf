"""Notice that a registry's file was edited since this process read it: edits are used after a restart."""

import logging
import threading

from storage.process.service_loop import run_until_stopped
from storage.settings import Settings

log = logging.getLogger(__name__)


class RegistryWatch:
    """Looks at the file now and then, and says once of each edit that this process has not read it."""

    def __init__(self, settings: Settings) -> None:
        """Remember the file as it is now, when its process has read it."""
        self._path = settings.local_models_file
        self._seen = self._state()

    def look(self) -> bool:
        """Log an edit, once; whether there was one."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        log.warning(
            "the model registry was edited after this process read it; restart it to use the edit",
            extra={"file": str(self._path)},
        )
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def watch_registry(settings: Settings, stopping: threading.Event) -> None:
    """Have a thread look at the file every few seconds, until its process stops."""
    watch = RegistryWatch(settings)
    threading.Thread(
        target=run_until_stopped,
        args=(watch.look,),
        kwargs={"doing": "look at the registry", "every_seconds": settings.sweep_seconds, "stopping": stopping},
        name="registry",
        daemon=True,
    ).start()
