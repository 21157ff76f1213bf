"""`farm models check`: have a process of its own prove what the farm promises of a model, and keep what it found."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from scheduler.cli.interrupts import heard_interrupts
from scheduler.cli.output import hint, is_quiet, json_option, print_json, print_table, say, when
from scheduler.local.weights import missing
from scheduler.services import make_home, open_services
from storage.errors import FarmError, InvalidInput, ServiceProblem
from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.process.lifeline import start_child
from storage.settings import DEVICE, Settings, read_settings
from storage.spec.model_checks import CheckFinding, ModelCheck, ModelChecks, check_writable, checks_file, write_check
from storage.spec.model_files import not_found
from storage.spec.models import DiffusersModel, Model
from storage.spec.registry import read_registry

#: Lines that are no events: what libraries said last is told if the process dies.
_LAST_WORDS = 3


@dataclass
class _Heard:
    """What the process has told so far."""

    findings: list[CheckFinding] = field(default_factory=list)
    check: ModelCheck | None = None
    failed: tuple[str, int] | None = None
    doing: str = "loading"
    words: list[str] = field(default_factory=list)


@click.command()
@click.argument("alias")
@click.option(
    "--device", metavar="DEVICE", help="Check on this device, such as cuda:1 or cpu (default: FARM_DEVICES' first)."
)
@json_option
@click.pass_context
def check(context: click.Context, alias: str, device: str | None, as_json: bool) -> None:
    """Prove on this machine's device what the farm promises of a model, and measure it.

    A process of its own loads the model and draws with it: alone, in batches and among strangers, with lists of
    prompts, with the same seed twice, in several sizes; it measures memory and seconds. What held is written beside
    the registry's file, where workers and the scheduler use it. Exits with 1 if something did not hold.
    """
    settings = read_settings()
    model = read_registry(settings)[alias]
    _check_here(model, device)
    file = checks_file(settings)
    if file.parent == settings.home:
        make_home(settings)
    check_writable(file)
    beside = _workers_beside(settings, device)
    for worker in beside:
        hint(
            f"worker {worker.name} renders on this machine: it goes on, slower meanwhile, and no batch limit is made "
            "of what is measured beside it"
        )
    heard = _Heard()
    interrupted = False
    try:
        _listen(_command(alias, device, is_shared=bool(beside)), heard, label=f"check {alias}")
    except KeyboardInterrupt:
        interrupted = True
    if heard.check is None:
        _say_what_there_is(heard, as_json=as_json, interrupted=interrupted)
        if interrupted:
            say(f"interrupted while checking {heard.doing}; nothing was written")
            context.exit(130)
        raise _fault(heard)
    write_check(file, alias, heard.check)
    _show(heard.check, file, as_json=as_json)
    context.exit(0 if heard.check.held else 1)


def show_checks(checks: ModelChecks | None, model: Model) -> None:
    """Print what was found of a model as its entry is now."""
    for found in [] if checks is None else checks.of(model):
        broken = [finding.check for finding in found.findings if finding.held is False]
        best = "" if found.pictures is None else f", {found.pictures} per call are best"
        held = f"did not hold: {', '.join(broken)}" if broken else "all held"
        click.echo(f"checked   {when(found.at)} on {found.device_name}, {found.width}×{found.height}: {held}{best}")
    for found in [] if checks is None else checks.of_files_before(model):
        click.echo(
            f"checked   {when(found.at)} on {found.device_name}, but its files were replaced since: that "
            f"counts no more (`farm models check {model.alias}` checks these)"
        )


def _check_here(model: Model, device: str | None) -> None:
    """Raise InvalidInput for what cannot be checked on this machine."""
    if not isinstance(model, DiffusersModel):
        raise InvalidInput(f"model {model.alias} is simulated: there are no weights to check")
    if device is not None and (not (match := DEVICE.fullmatch(device)) or match[1] == "simulated"):
        raise click.UsageError(f"--device {device}: expected cuda:N, mps or cpu")
    if gone := not_found(model):
        raise InvalidInput(f"there is no {', '.join(gone)} on this machine; correct `source` in the registry")
    if absent := missing(model):
        raise InvalidInput(f"{', '.join(absent)} is not on this machine; `farm models pull {model.alias}` fetches it")


def _workers_beside(settings: Settings, device: str | None) -> list[WorkerView]:
    """Return the workers that render on the device that is to be checked."""
    if settings.database_url is None and not settings.home.joinpath("farm.db").exists():
        return []
    try:
        workers = open_services(settings).workers.all()
    except ServiceProblem as error:
        say(f"whether workers render on this machine is not known: {error}")
        return []
    named = (device or settings.devices).partition(",")[0].strip()
    match = DEVICE.fullmatch(named)
    kind, index = (match[1], match[2]) if match else (None, None)
    return [
        worker
        for worker in workers
        if worker.host == socket.gethostname()
        and worker.silent_for <= SILENT_SECONDS
        and _is_alive(worker.pid)
        # All workers on a CPU share it, however they are numbered.
        and (kind is None or worker.device.partition(":")[0] == kind)
        and (kind in (None, "cpu") or index is None or worker.device == f"{kind}:{index}")
        and not worker.device.startswith("simulated")
    ]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command(alias: str, device: str | None, *, is_shared: bool) -> list[str]:
    options = [*(() if device is None else ("--device", device)), *(("--shared",) if is_shared else ())]
    return [sys.executable, "-m", "worker.checks", *options, "--", alias]


def _listen(command: list[str], heard: _Heard, *, label: str) -> None:
    """Run the process to its end, showing what it does. Raises KeyboardInterrupt, once it has ended."""
    reading, writing = os.pipe()
    with heard_interrupts() as check, os.fdopen(reading, "rb") as lines:
        with os.fdopen(writing, "wb") as output:
            process = start_child(command, output=output)
        try:
            with _shown(label) as show:
                for line in lines:
                    check()
                    _hear(line.decode(errors="replace"), heard, show)
        finally:
            _end(process)
        check()


def _end(process: subprocess.Popen[bytes]) -> None:
    # It holds nothing that a clean end would save; the device gets its memory back from the system.
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _hear(line: str, heard: _Heard, show: Callable[[str, int, int], None]) -> None:
    try:
        event: dict[str, Any] = json.loads(line)["event"]
    except (ValueError, KeyError, TypeError):
        heard.words = [*heard.words, *([line.strip()] if line.strip() else [])][-_LAST_WORDS:]
        return
    if "doing" in event:
        heard.doing = event["doing"]
        calls = event.get("calls")
        show(heard.doing + (f", call {calls}" if calls else ""), event["place"], event["of"])
    elif "found" in event:
        finding = CheckFinding.model_validate(event["found"])
        heard.findings.append(finding)
    elif "check" in event:
        heard.check = ModelCheck.model_validate(event["check"])
    elif "failed" in event:
        heard.failed = (event["failed"], event["code"])


@contextlib.contextmanager
def _shown(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress: a bar on a terminal, otherwise a line for each check."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
        disable=is_quiet() or not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(label, total=None, note="")
        last = -1

        def show(note: str, place: int, of: int) -> None:
            nonlocal last
            bar.update(task, completed=place, total=of, note=note)
            if bar.disable and place != last:
                hint(f"{label}: {note} ({place + 1} of {of})")
            last = place

        yield show


def _say_what_there_is(heard: _Heard, *, as_json: bool, interrupted: bool) -> None:
    """Print what was found before the end came; nothing if nothing was."""
    if as_json and interrupted:
        print_json({"interrupted": True, "findings": [finding.model_dump(mode="json") for finding in heard.findings]})
    elif heard.findings and not as_json:
        _print(heard.findings)


def _fault(heard: _Heard) -> FarmError:
    if heard.failed is not None:
        message, code = heard.failed
        return InvalidInput(message) if code == 2 else ServiceProblem(message)
    said = f": {heard.words[-1][:300]}" if heard.words else ""
    return ServiceProblem(
        f"the process ended while checking {heard.doing}, perhaps for want of memory{said}; nothing was written"
    )


def _show(found: ModelCheck, file: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), "held": found.held, **found.model_dump(mode="json")})
        return
    click.echo(f"on {found.device} ({found.device_name}), {found.dtype}, {found.width}×{found.height}\n")
    _print(found.findings)
    for remark in found.remarks:
        click.echo(f"said to whoever submits: {remark}")
    hint(f"written to {file}")


def _print(findings: Any) -> None:
    print_table(
        ["CHECK", "", "WHAT WAS FOUND"],
        ((one.check, {True: "held", False: "NOT", None: ""}[one.held], one.words) for one in findings),
    )
