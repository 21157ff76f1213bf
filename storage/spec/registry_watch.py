"""Follow a registry's file while a process runs: what is added is there, what is wrong leaves all as it was."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import FarmError
from storage.process.service_loop import run_until_stopped
from storage.settings import Settings
from storage.spec.registry import Registry, read_registry

_Entry = TypeVar("_Entry")

log = logging.getLogger(__name__)

#: A look takes a call of the system, and nobody should wait for what they have added.
_LOOK_SECONDS = 1.0


class RegistryWatch:
    """Looks at the file now and then; once it is as it was at the look before, the registry follows it."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        check: Callable[[Registry], object] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            registry: that of this process; it may have read the file a while ago.
            check: raises a FarmError if this process cannot go on with such a registry.
            changed: called after the registry has followed the file; again at the next look if it raised something.
        """
        self._settings = settings
        self._registry = registry
        self._check = check
        self._changed = changed
        self._path = settings.local_models_file
        self._read: object = "not yet"
        self._last = self._state()
        self._untold = False

    def look(self) -> None:
        """Follow an edit. Raises ServiceProblem if those whom it concerns could not be told yet."""
        state, before = self._state(), self._last
        self._last = state
        # An editor may be half-way: between two names of a file, or two writes.
        if state != self._read and state == before:
            self._read = state
            self._follow()
        if self._untold:
            self._changed()
            self._untold = False

    def _follow(self) -> None:
        try:
            found = read_registry(self._settings)
            if found == self._registry:
                return
            self._check(found)
        except FarmError as error:
            log.error(
                "the model registry was edited and is wrong; the entries before it stay until it is corrected",
                extra={"file": str(self._path), "error": error},
            )
            return
        said = {what: ",".join(names) for what, names in differences(self._registry, found).items() if names}
        self._registry.follow(found)
        log.info(
            "the model registry was edited; its entries count from now on", extra={"file": str(self._path), **said}
        )
        self._untold = True

    def _state(self) -> tuple[object, object]:
        """Return what changes with the file, and with the names in the folder of LoRAs."""
        folder = self._registry.lora_folder
        return _stamp(self._path), None if folder is None else _stamp(folder)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def differences(before: Registry, after: Registry) -> dict[str, list[str]]:
    """Return which aliases were added, removed and changed; other entries' than models' with what they are."""
    old, new = _named(before), _named(after)
    return {
        "added": [alias for alias in new if alias not in old],
        "removed": [alias for alias in old if alias not in new],
        "changed_entries": [alias for alias in new if alias in old and old[alias] != new[alias]],
    }


def _named(registry: Registry) -> dict[str, object]:
    return {
        **registry.models,
        **{f"LoRA {alias}": lora for alias, lora in registry.loras.items()},
        **{f"embedding {alias}": one for alias, one in registry.embeddings.items()},
    }


class LiveEntries(Mapping[str, _Entry]):
    """The LoRAs or the embeddings of a registry as it is now."""

    def __init__(
        self, now: Callable[[], Mapping[str, _Entry]], again: Callable[[], Mapping[str, _Entry]] | None = None
    ) -> None:
        """
        Args:
            again: reads them anew, where one is asked for that is not there: it may have been added a moment ago, and
                used before anybody looked at the file. Raises FarmError if that is wrong.
        """
        self._now = now
        self._again = again

    def __getitem__(self, alias: str) -> _Entry:
        found = self._now().get(alias)
        if found is not None:
            return found
        try:
            return self._again()[alias] if self._again else self._now()[alias]
        except FarmError:
            raise KeyError(alias) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


def watch_registry(settings: Settings, registry: Registry, stopping: threading.Event, **hooks: Any) -> None:
    """Have a thread follow the file until its process stops; `hooks` as of `RegistryWatch`."""
    watch = RegistryWatch(settings, registry, **hooks)
    threading.Thread(
        target=run_until_stopped,
        args=(watch.look,),
        kwargs={
            "doing": "look at the registry",
            "every_seconds": min(_LOOK_SECONDS, settings.sweep_seconds),
            "stopping": stopping,
        },
        name="registry",
        daemon=True,
    ).start()
