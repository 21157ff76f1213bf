"""The process of `farm models check`, which starts it: python -m worker.checks ALIAS [--device cuda:1] [--shared].

It loads the model on one device, as a worker would, and tells what it does and finds on standard output, a line of
JSON each. It writes nothing but the hash of the weights, which workers keep too.
"""

import os

import click

from storage.errors import BadSettings, FarmError, InvalidInput, NotFound
from storage.process.lifeline import stop_with_parent
from storage.settings import Settings, read_settings
from storage.spec.models import DiffusersModel
from storage.spec.registry import Registry, read_registry
from worker.checks.run import ModelCheckRun, Teller, without_checks
from worker.devices import Device
from worker.process.cpu_share import learning_name, share_cpu
from worker.rendering.backend import Backend, BackendResources
from worker.rendering.open_backend import open_backend

#: The lowest priority on the processor is 19.
_NICE = 15


@click.command()
@click.argument("alias")
@click.option("--device", default=None)
@click.option("--shared", is_flag=True)
def main(alias: str, device: str | None, shared: bool) -> None:
    """Check a model."""
    stop_with_parent()
    if shared:
        # Whoever renders here goes first.
        os.nice(_NICE)
    tell = Teller()
    try:
        settings = read_settings(**({} if device is None else {"devices": device}))
        registry = without_checks(read_registry(settings))
        _check(settings, registry, alias, tell, is_shared=shared)
    except ModuleNotFoundError as error:
        tell.failed(f"cannot load models here: {error}; install diffusion-farm[worker]", 3)
    except FarmError as error:
        tell.failed(str(error), 2 if isinstance(error, InvalidInput) else 3)


def _check(settings: Settings, registry: Registry, alias: str, tell: Teller, *, is_shared: bool) -> None:
    model = registry[alias]
    if not isinstance(model, DiffusersModel):
        raise BadSettings(f"model {alias} is simulated: there are no weights to check")
    devices, share = share_cpu(settings, registry)
    device = next((one for one in devices if one.kind != "simulated"), None)
    if device is None:
        raise BadSettings(f"FARM_DEVICES={settings.devices}: none of them loads a model; name one with --device")
    # Before PyTorch is imported, which looks at them then.
    os.environ.update(device.environment() | share.environment(device))

    def opened(resources: BackendResources) -> Backend:
        backend = open_backend("diffusers", device, resources)
        _check_there(device)
        return backend

    run = ModelCheckRun(settings, registry, model, device=device, tell=tell)
    tell.done(run.all(opened, lambda hardware: learning_name(device, hardware), is_shared=is_shared))


def _check_there(device: Device) -> None:
    # Here, for it imports torch.
    from worker.rendering.memory_meter import is_there

    if not is_there(device):
        raise NotFound(f"there is no {device} on this machine; `farm models check --device cpu` uses its processor")


if __name__ == "__main__":
    main()
