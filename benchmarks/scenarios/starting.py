"""How long commands take from process start to answer, and their peak memory."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.command import free_environment, run_command
from benchmarks.machine import REPOSITORY
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario
from benchmarks.start import QUESTIONS, Build, prepared


def _farm(question: str, *, other: bool = False) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        checkout = conditions.against if other else REPOSITORY
        if checkout is None:
            raise AssertionError("unreachable: without another build this arm is left out")
        build = conditions.servers.keep(f"home of {checkout}", lambda: _built(checkout, conditions.folder))
        yield lambda: _figures([*build.command, *QUESTIONS[question](build)], build.environment, build.folder)

    return opened


@contextmanager
def _built(checkout: Path, folder: Path) -> Iterator[Build]:
    yield prepared(f"home of {checkout.name}", Path(sys.executable), folder, python_path=str(checkout))


def _python(*arguments: str) -> Open:
    @contextmanager
    def opened(conditions: Conditions) -> Iterator[Round]:
        yield lambda: _figures([sys.executable, *arguments], free_environment(), conditions.folder)

    return opened


def _figures(command: Sequence[str], environment: dict[str, str], folder: Path) -> Figures:
    ended = run_command(command, environment, folder)
    if not ended.printed:
        raise AssertionError(f"{' '.join(command)} answers nothing")
    return {"seconds": ended.seconds, "cpu_seconds": ended.cpu_seconds, "mib": ended.mib}


SCENARIO = Scenario(
    name="start",
    title="Starting a command",
    measures="Commands from process start to answer, on a farm of SQLite with one finished render.",
    limit="Python's own start, which is the last arm",
    figures={
        "seconds": Figure("time", "s", "lower"),
        "cpu_seconds": Figure("on a processor", "s", "lower"),
        "mib": Figure("peak memory", "MiB", "lower"),
    },
    arms=[
        *(Arm(question, _farm(question)) for question in QUESTIONS),
        *(
            Arm(f"{question}, other build", _farm(question, other=True), other_build=True)
            for question in ("farm --help", "farm status")
        ),
        Arm("celery --help", _python("-m", "celery", "--help"), modules=("celery",)),
        Arm("Python alone", _python("-c", "print('ready')")),
    ],
    share=30,
)
