"""Who this worker is and which models it serves: known alike to supervisor, parent and child."""

import socket

from storage.errors import BadSettings
from storage.settings import Settings
from storage.spec.registry import Registry
from worker.devices import Device
from worker.rendering.backend import kinds_of


def machine_name(settings: Settings) -> str:
    return settings.worker_name or socket.gethostname()


def served_models(settings: Settings, registry: Registry, device: Device) -> list[str]:
    """The aliases that a device serves: those wanted, of the kinds that it can render.

    Raises NotFound for an unknown alias, BadSettings if nothing is left.
    """
    kinds = kinds_of(device)
    served = [alias for alias in registry.aliases(settings.serve) if registry[alias].kind in kinds]
    if not served:
        raise BadSettings(
            f"device {device} can render none of the models {', '.join(registry.aliases(settings.serve))}"
        )
    return served
