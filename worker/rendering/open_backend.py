"""Which backends there are, and how one is opened.

A new backend is one more line in `_OPENERS`, a model kind of that name (`storage.spec.models`), and a pair of fixtures
in `tests/contract/test_backends.py`.
"""

import os
from collections.abc import Callable, Collection

from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources
from worker.rendering.simulated import SimulatedBackend


def _open_diffusers(device: Device, resources: BackendResources) -> Backend:
    # Where torch keeps compiled kernels: what one worker compiled, the next one finds. Set before torch is imported.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(resources.home / "inductor"))
    # Its warnings while it is imported are of what nobody here asked for, such as torchvision.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Imported here and nowhere else outside this package's torch modules: it costs seconds and gigabytes, which
    # supervisors, parents and simulated workers must not pay.
    from worker.rendering.diffusers_backend import DiffusersBackend

    return DiffusersBackend(device, resources)


def _open_simulated(device: Device, _: BackendResources) -> Backend:
    return SimulatedBackend(device)


#: Model kind → how its backend is opened. Backends that know their hardware come before those that pretend.
_OPENERS: dict[str, Callable[[Device, BackendResources], Backend]] = {
    "diffusers": _open_diffusers,
    "simulated": _open_simulated,
}


def kinds_of(device: Device) -> frozenset[str]:
    """Return the model kinds that a device can render: a simulated one has no torch, a real one can pretend."""
    return frozenset({"simulated"}) if device.kind == "simulated" else frozenset(_OPENERS)


def open_backend(kind: str, device: Device, resources: BackendResources) -> Backend:
    """Import a kind's libraries and return its backend on this device."""
    return _OPENERS[kind](device, resources)


class OpenBackends(dict[str, Backend]):
    """Backends by model kind; one that is missing is opened when it is asked for: models may be added meanwhile."""

    def __init__(self, device: Device, resources: BackendResources) -> None:
        super().__init__()
        self._device = device
        self._resources = resources

    def __missing__(self, kind: str) -> Backend:
        self[kind] = open_backend(kind, self._device, self._resources)
        return self[kind]


def open_backends(kinds: Collection[str], device: Device, resources: BackendResources) -> OpenBackends:
    """Open several backends; the first one is the one to ask for the hardware's name."""
    opened = OpenBackends(device, resources)
    for kind in _OPENERS:
        if kind in kinds:
            opened[kind]
    return opened
