"""How this machine's CPU is shared out among workers: found out when they start, unless the settings say so."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from storage.settings import Settings
from storage.spec.loaded_size import loaded_bytes
from storage.spec.registry import Registry
from worker.devices import Device, find_devices
from worker.process.cores import usable_cores, usable_memory
from worker.process.cpu_plan import CpuPlan, keeps_all_threads, plan_cpu
from worker.process.identity import THREADS, own_threads, served_models

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CpuShare:
    """Hold how many threads each worker on the CPU has, and which of them start only when they are called."""

    #: None: the user has decided (OMP_NUM_THREADS).
    threads: int | None
    reserves: Sequence[Device] = ()
    #: Whether one of the models served needs all threads; None: how the CPU is shared out does not depend on that.
    for_large: bool | None = None

    def environment(self, device: Device) -> dict[str, str]:
        """Return the variables that tell a worker its threads."""
        if device.kind != "cpu" or self.threads is None:
            return {THREADS: ""}
        return {THREADS: str(self.threads), "OMP_NUM_THREADS": str(self.threads)}


def share_cpu(settings: Settings, registry: Registry) -> tuple[list[Device], CpuShare]:
    """Return the devices that the settings name, with as many workers on the CPU as suit it where they say no number.

    Raises BadSettings, NotFound.
    """
    by_user, cores = threads_by_the_user(), usable_cores()
    plans: list[CpuPlan] = []

    def workers() -> int:
        sizes = _sizes(settings, registry)
        plans.append(plan_cpu(cores=cores, memory=usable_memory(), models=sizes, threads=by_user))
        return plans[-1].workers

    devices = find_devices(settings.devices, cpu_workers=workers)
    on_cpu = [device for device in devices if device.kind == "cpu"]
    if not on_cpu:
        return devices, CpuShare(threads=None)
    if plans:
        [plan] = plans
    else:
        each = by_user or max(1, cores // len(on_cpu))
        plan = CpuPlan(workers=len(on_cpu), threads=each, because="FARM_DEVICES names them")
    log.info(
        "CPU shared out",
        extra={"cores": cores, "workers": plan.workers, "threads": plan.threads, "because": plan.because},
    )
    # Those that were named one by one are wanted at once.
    reserves = on_cpu[1:] if plans else []
    for_large = serves_large(settings, registry) if plans else None
    return devices, CpuShare(threads=None if by_user else plan.threads, reserves=reserves, for_large=for_large)


def serves_large(settings: Settings, registry: Registry) -> bool:
    """Tell whether a CPU serves a model that needs all its threads."""
    return keeps_all_threads(_sizes(settings, registry))


def _sizes(settings: Settings, registry: Registry) -> dict[str, int | None]:
    return {alias: loaded_bytes(registry[alias]) for alias in served_models(settings, registry, Device("cpu", 0))}


def learning_name(device: Device, hardware: str) -> str:
    """Return by which name this process learns and finds what is best for its device: on a CPU it has threads, too."""
    if device.kind != "cpu":
        return hardware[:128]
    return f"{hardware[:100]}, threads: {own_threads() or threads_by_the_user() or usable_cores()}"


def threads_by_the_user() -> int | None:
    """Return what OMP_NUM_THREADS says, as OpenMP reads it: of a list, the first number. Warns of what is no number."""
    said = os.environ.get("OMP_NUM_THREADS", "").strip()
    first = said.split(",")[0].strip()
    if first.isdecimal() and int(first):
        return int(first)
    if said:
        log.warning("OMP_NUM_THREADS is ignored: expected a number such as 2", extra={"given": said})
    return None
