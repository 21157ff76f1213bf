"""Who a worker is and which models it serves: the same for supervisor, parent and child."""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from storage.errors import BadSettings
from storage.process.run_id import run_id
from storage.settings import Settings
from storage.spec.last_registry import registry_or_last
from storage.spec.registry import Registry, read_registry
from worker.devices import Device, find_devices
from worker.rendering.open_backend import kinds_of

#: Not a setting: set by the supervisor, for its children.
RUN = "DIFFUSION_FARM_RUN"
#: How many threads a worker on a CPU has, if they are its own to use; and the file by which it calls for others.
THREADS, CALL = "DIFFUSION_FARM_THREADS", "DIFFUSION_FARM_CALL"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One worker: its device, its name, and the models it serves."""

    device: Device
    name: str
    registry: Registry
    settings: Settings

    @property
    def served(self) -> "Served":
        """Aliases in the registry, as it is now."""
        return Served(self.settings, self.registry, self.device)

    @classmethod
    def of(cls, settings: Settings) -> "Identity":
        """Read who this process is from its settings, in which the supervisor named one device. Raises FarmError."""
        [device] = find_devices(settings.devices)
        # Started by a supervisor, which has read it: a wrong edit since then is no reason not to go on.
        registry = registry_or_last(settings) if RUN in os.environ else read_registry(settings)
        served_models(settings, registry, device)
        return cls(device=device, name=device.worker_name(machine_name(settings)), registry=registry, settings=settings)

    def check_served(self, registry: Registry) -> None:
        """Raise NotFound or BadSettings if this worker could serve nothing of a registry."""
        served_models(self.settings, registry, self.device)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the models that it serves."""
        return frozenset(self.registry[alias].kind for alias in self.served)


class Served(Sequence[str]):
    """The aliases that a device serves of a registry that may change."""

    def __init__(self, settings: Settings, registry: Registry, device: Device) -> None:
        self._settings, self._registry, self._device = settings, registry, device

    def _now(self) -> list[str]:
        return served_models(self._settings, self._registry, self._device)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._now()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


def this_run() -> str:
    """Return the run of `farm-worker` that this process belongs to; the supervisor's children inherit its own."""
    return os.environ.get(RUN) or run_id()


def own_threads() -> int | None:
    """Return how many threads this process may use as it likes; None: the user has decided, or there is no CPU."""
    threads = os.environ.get(THREADS)
    return int(threads) if threads else None


def call_file() -> Path | None:
    """Return the file by which a worker calls for others of its kind; None if nobody would come."""
    file = os.environ.get(CALL)
    return Path(file) if file else None


def machine_name(settings: Settings) -> str:
    return settings.worker_name or socket.gethostname()


def served_models(settings: Settings, registry: Registry, device: Device) -> list[str]:
    """Return the aliases that a device serves: those that FARM_SERVE selects, of the kinds that it can render.

    Raises NotFound for an unknown alias, BadSettings if nothing is left.
    """
    kinds = kinds_of(device)
    selected = registry.aliases(settings.serve)
    served = [alias for alias in selected if registry[alias].kind in kinds]
    if not served:
        raise BadSettings(f"device {device} can render none of the models {', '.join(selected)}")
    return served
