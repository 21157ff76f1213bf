"""How long commands take from process start to answer, and their peak memory: this build beside another one.

python -m benchmarks.start --against ../before/.venv/bin/farm --out start.json

An arm is the path of a `farm` executable or of a Python interpreter. Both get a FARM_HOME of their own, prepared by
their own build with one small finished render, and answer in turns, so that a machine that is busy for a while is
busy for both. A ratio is taken within a round; the table shows its median, least and greatest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LEAST_ROUNDS = 7
_REPOSITORY = Path(__file__).resolve().parents[1]
_MODELS = """
[models.simulated]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 2
seconds_per_step = 0.0
seconds_per_step_and_picture = 0.0
"""
#: Printed by an arm's interpreter: what its answers depend on.
_VERSIONS = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in ("click", "SQLAlchemy", "pydantic", "celery"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A build of the farm whose commands are timed."""

    name: str
    command: Sequence[str]
    python: Path
    environment: dict[str, str]
    render_id: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One process, from its start to its end."""

    seconds: float
    #: On a processor, user and system: unlike `seconds` it hardly depends on what else the machine does.
    cpu_seconds: float
    #: Peak resident memory. Linux counts what the parent held at the fork, too: this program stays small (20 MiB).
    mib: float


#: What is asked, as it is shown, and its arguments.
QUESTIONS: dict[str, Callable[[Arm], Sequence[str]]] = {
    "farm --help": lambda _: ("--help",),
    "farm status": lambda _: ("status",),
    "farm jobs RENDER": lambda arm: ("jobs", arm.render_id),
    "farm doctor": lambda _: ("doctor",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="FARM", help="the other build")
    farm = Path(sys.executable).with_name("farm")
    parser.add_argument("--this", type=Path, default=farm, metavar="FARM", help="this build (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help=f"at least {_LEAST_ROUNDS}, after one to warm up")
    parser.add_argument("--out", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    if options.rounds < _LEAST_ROUNDS:
        parser.error(f"--rounds must be at least {_LEAST_ROUNDS}")
    for path in (options.this, options.against):
        if not os.access(path, os.X_OK):
            parser.error(f"{path} is not an executable file")
    with tempfile.TemporaryDirectory() as folder:
        this = _prepared("this", options.this, Path(folder), python_path=str(_REPOSITORY))
        other = _prepared("other", options.against, Path(folder))
        samples = _measured(this, other, options.rounds)
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "load_average": os.getloadavg(),
            "rounds": options.rounds,
            "this": _described(this, _REPOSITORY),
            "other": _described(other, other.python.parent),
            "commands": {question: _summary(*samples[question]) for question in QUESTIONS},
        }
    sys.stdout.write(_table(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _prepared(name: str, executable: Path, folder: Path, *, python_path: str | None = None) -> Arm:
    """An arm with a FARM_HOME in which it has rendered three simulated pictures."""
    path = executable.absolute()
    is_interpreter = path.name.startswith("python")
    home = folder / name
    home.mkdir()
    (home / "models.toml").write_text(_MODELS)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FARM_", "PYTHON"))}
    environment |= {"FARM_HOME": str(home), "FARM_DEVICES": "simulated:0"}
    if python_path is not None:
        environment["PYTHONPATH"] = python_path
    command = [str(path), "-m", "scheduler.cli.main"] if is_interpreter else [str(path)]
    told = subprocess.run(  # noqa: S603 - what the caller asked to measure
        [*command, "render", "a red star", "-n", "3", "--json"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    render = json.loads(told.stdout)
    if render["done"] != render["total"]:
        raise AssertionError(f"{path} cannot render: {told.stdout}")
    return Arm(
        name=name,
        command=command,
        python=path if is_interpreter else path.with_name("python"),
        environment=environment,
        # Older builds print it under another name.
        render_id=render.get("id") or render["render"],
    )


def _measured(this: Arm, other: Arm, rounds: int) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Question → samples of this build and of the other one, round by round."""
    found: dict[str, tuple[list[Sample], list[Sample]]] = {question: ([], []) for question in QUESTIONS}
    for number in range(rounds + 1):
        for question, arguments in QUESTIONS.items():
            pair = {}
            # Neither is always the first.
            for arm in (this, other) if number % 2 else (other, this):
                pair[arm.name] = _sample(arm, arguments(arm))
            if number:  # the first round fills caches
                found[question][0].append(pair["this"])
                found[question][1].append(pair["other"])
    return found


def _sample(arm: Arm, arguments: Sequence[str]) -> Sample:
    command = [*arm.command, *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - what the caller asked to measure
        command, env=arm.environment, cwd=arm.environment["FARM_HOME"], stdout=subprocess.PIPE, text=True
    )
    with process:
        if process.stdout is None:
            raise AssertionError("unreachable: its output is a pipe")
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not answer:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}: {answer}")
    # Linux counts in KiB, macOS in bytes.
    mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Sample(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, mib=mib)


def _summary(this: Sequence[Sample], other: Sequence[Sample]) -> dict[str, Any]:
    def figures(of: Callable[[Sample], float]) -> dict[str, dict[str, float]]:
        ours, theirs = [of(sample) for sample in this], [of(sample) for sample in other]
        ratios = [one / another for one, another in zip(ours, theirs, strict=True)]
        return {
            name: {
                "median": round(statistics.median(values), 3),
                "min": round(min(values), 3),
                "max": round(max(values), 3),
            }
            for name, values in (("this", ours), ("other", theirs), ("ratio", ratios))
        }

    return {
        "seconds": figures(lambda sample: sample.seconds),
        "cpu_seconds": figures(lambda sample: sample.cpu_seconds),
        "mib": figures(lambda sample: sample.mib),
    }


def _described(arm: Arm, folder: Path) -> dict[str, Any]:
    """What an arm is: its commit, where it is of a checkout, and its versions."""
    versions = subprocess.run(  # noqa: S603 - the arm's own interpreter
        [str(arm.python), "-c", _VERSIONS], env=arm.environment, stdout=subprocess.PIPE, text=True, check=True
    )
    commit = subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607 - whichever git there is
        capture_output=True,
        text=True,
        check=False,
    )
    return {"commit": commit.stdout.strip() or None, "versions": json.loads(versions.stdout)}


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['machine']}; {result['rounds']} rounds",
        f"this build {result['this']['commit']}, the other {result['other']['commit']}",
        f"{'':18}{'':10}{'this: median (min … max)':>28}{'other: median (min … max)':>30}{'ratio':>24}",
    ]
    for question, measured in result["commands"].items():
        for unit, what in (("seconds", "wall s"), ("cpu_seconds", "cpu s"), ("mib", "MiB")):
            cells = []
            for name in ("this", "other", "ratio"):
                one, digits = measured[unit][name], 1 if what == "MiB" and name != "ratio" else 3
                cells.append(f"{one['median']:.{digits}f} ({one['min']:.{digits}f} … {one['max']:.{digits}f})")
            lines.append(f"{question:18}{what:10}{cells[0]:>28}{cells[1]:>30}{cells[2]:>24}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
