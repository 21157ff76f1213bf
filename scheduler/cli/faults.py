"""`farm faults`, `farm workers` and `farm workers release`: what went wrong, and who works."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click

from scheduler.cli.output import counted, duration, has_subcommand, json_option, print_json, print_table, when
from scheduler.cli.reading import services_to_find, services_to_read
from storage.errors import NotFound
from storage.fleet.fault_log import FaultLog, FaultView, Quarantine
from storage.fleet.workers import SILENT_SECONDS, WorkerView

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_MESSAGE_SHOWN = 100
_COLUMNS = (
    *(
        "WORKER",
        "STATE",
        "DEVICE",
        "MODEL",
        "BATCH",
        "LIMIT",
        "JOINED",
        "ASIDE",
        "PICTURES",
        "RATE",
        "LAST SEEN",
        "LAST FAULT",
    ),
)


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([mhd])", value)
    if match is None:
        raise click.BadParameter("expected a number and m, h or d, such as 90m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


@click.command()
@click.option(
    "--since", "seconds", default="24h", show_default=True, callback=_seconds, help="Time span, such as 90m, 24h or 7d."
)
@click.option("--model", metavar="ALIAS", help="Show only faults of this model.")
@click.option("--worker", metavar="NAME", help="Show only faults of this worker, or of all workers of this machine.")
@click.option(
    "--latest",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    help="How many of the latest faults to list.",
)
@json_option
def faults(seconds: float, model: str | None, worker: str | None, latest: int, as_json: bool) -> None:
    """Show recent faults.

    Counts them by class, model and worker, then lists the latest one by one.
    """
    log = FaultLog(services_to_read().database)
    counts = log.counts(within_seconds=seconds, model=model, worker=worker)
    newest = log.latest(within_seconds=seconds, limit=latest, model=model, worker=worker)
    if as_json:
        print_json({"counts": [c.__dict__ for c in counts], "latest": [fault.__dict__ for fault in newest]})
        return
    if not counts:
        click.echo("no faults in this time span")
        return
    print_table(
        ["FAULT", "MODEL", "WORKER", "TIMES", "JOBS", "LAST"],
        ((c.fault, c.model, c.worker, c.times, c.jobs, when(c.last_at)) for c in counts),
    )
    if newest:
        click.echo()
        print_table(
            ["WHEN", "FAULT", "JOB", "ATTEMPT", "WORKER", "MESSAGE"],
            ((when(f.at), f.fault, f.job, f.attempt, f.worker, _shortened(f.message)) for f in newest),
        )


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def workers(context: click.Context, as_json: bool) -> None:
    """List the workers.

    Shows device, state, model, pictures rendered, last fault, and quarantines.
    """
    if has_subcommand(context, as_json=as_json):
        return
    services = services_to_read()
    log = FaultLog(services.database)
    found = services.workers.all()
    quarantines: defaultdict[str, list[Quarantine]] = defaultdict(list)
    for quarantine in log.quarantines():
        quarantines[quarantine.worker].append(quarantine)
    last = {worker.name: next(iter(log.latest(limit=1, worker=worker.name)), None) for worker in found}
    if as_json:
        print_json(
            [
                {
                    **asdict(worker),
                    "silent": worker.silent_for > SILENT_SECONDS,
                    "last_fault": fault.__dict__ if (fault := last[worker.name]) else None,
                    "quarantines": [quarantine.__dict__ for quarantine in quarantines[worker.name]],
                }
                for worker in found
            ]
        )
        return
    if not found:
        click.echo("no workers; start some with `farm-worker`, or a whole farm on this machine with `farm up`")
        return
    print_table(
        _COLUMNS,
        ((*_row(worker, quarantines[worker.name]), _fault(last[worker.name])) for worker in found),
    )
    _say_what_hinders(found, quarantines)


def _say_what_hinders(found: Sequence[WorkerView], quarantines: Mapping[str, Sequence[Quarantine]]) -> None:
    for worker in found:
        if worker.trouble:
            click.echo(f"{worker.name} is waiting: {worker.trouble}")
        for quarantine in quarantines[worker.name]:
            click.echo(
                f"{worker.name} is quarantined{f' for {quarantine.model}' if quarantine.model else ''} for another "
                f"{duration(quarantine.seconds_left)} ({_shortened(quarantine.reason)}); "
                f"end it with `farm workers release {worker.name}`"
            )


@workers.command()
@click.argument("name", metavar="WORKER")
@json_option
def release(name: str, as_json: bool) -> None:
    """End the quarantines of a worker. Idempotent."""
    services = services_to_find(name)
    known = {worker.name for worker in services.workers.all()}
    log = FaultLog(services.database)
    if name not in known | {quarantine.worker for quarantine in log.quarantines()}:
        raise NotFound(
            f"no worker named {name!r}; "
            + (f"workers: {', '.join(sorted(known))}" if known else "there are no workers")
        )
    ended = log.end_quarantines(name)
    if as_json:
        print_json({"worker": name, "released": ended})
    elif ended:
        click.echo(f"ended {counted(ended, 'quarantine')} of {name}")
    else:
        click.echo(f"{name} is not quarantined")


#: How calls for pictures with different LoRAs are made.
_LORA_CALLS = {"together": "together", "apart": "apart", "trial": "on trial"}


def _row(worker: WorkerView, quarantines: Sequence[Quarantine]) -> tuple[object, ...]:
    return (
        worker.name,
        _state(worker, quarantines),
        _device(worker),
        worker.model,
        _batch(worker),
        "" if worker.batch_limit is None else f"{worker.batch_limit}, {worker.limit_reason}",
        "" if worker.slots is None else worker.slots.joined,
        "" if worker.slots is None else worker.slots.stepped_aside,
        worker.pictures,
        f"{worker.rate:.1f}/s",
        f"{duration(worker.silent_for)} ago",
    )


def _fault(last: FaultView | None) -> str:
    return "" if last is None else f"{last.fault}, {when(last.at)}"


def _state(worker: WorkerView, quarantines: Sequence[Quarantine]) -> str:
    if worker.silent_for > SILENT_SECONDS:
        return "silent"
    return "quarantined" if any(quarantine.model is None for quarantine in quarantines) else worker.state


def _device(worker: WorkerView) -> str:
    return worker.device_name + ("" if worker.threads is None else f", {counted(worker.threads, 'thread')}")


def _batch(worker: WorkerView) -> str:
    """Say how many pictures it renders now; of slots, of how many, and how if they have different LoRAs."""
    if not worker.batch:
        return ""
    if worker.slots is None:
        return str(worker.batch)
    way = worker.slots.lora_calls
    return f"{worker.batch} of {worker.slots.limit}" + ("" if way is None else f", LoRAs {_LORA_CALLS[way]}")


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_SHOWN else message[: _MESSAGE_SHOWN - 1] + "…"
