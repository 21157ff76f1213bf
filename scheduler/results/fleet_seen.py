"""The fleet as one look sees it: workers, quarantines and what was rendered lately, each read once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from scheduler.intake.pace import serving_of
from scheduler.services import Services
from storage.fleet.fault_log import FaultLog, Quarantine
from storage.fleet.workers import WorkerView
from storage.renders.measures import BatchSample

T = TypeVar("T")


class Once(Protocol):
    """Does something once for a name, and gives its result to all who ask."""

    def __call__(self, name: Hashable, read: Callable[[], T], /) -> T: ...


class FleetSeen:
    """What a look knows of the fleet, which is everybody's: it is read when it is first asked for."""

    def __init__(self, services: Services, once: Once | None = None) -> None:
        """Prepare to read; `once`: where looks share what they read (by itself, each reads for itself)."""
        self.services = services
        self._once = once or _remembering()

    @property
    def workers(self) -> Sequence[WorkerView]:
        """All workers, those that were not heard of lately, too."""
        return self._once("workers", self.services.workers.all)

    @property
    def quarantines(self) -> Sequence[Quarantine]:
        """Those in force."""
        return self._once("quarantines", FaultLog(self.services.database).quarantines)

    def samples(self, model: str) -> Sequence[BatchSample]:
        """Return the last batches of a model, the newest first."""
        return self._once(("samples", model), lambda: self.services.measures.samples(model))

    def serving(self, models: Iterable[str]) -> list[str]:
        """Return the workers that serve all of these models now."""
        return serving_of(self.workers, models)


def _remembering() -> Once:
    known: dict[Hashable, Any] = {}

    def once(name: Hashable, read: Callable[[], T], /) -> T:
        if name not in known:
            known[name] = read()
        found: T = known[name]
        return found

    return once
