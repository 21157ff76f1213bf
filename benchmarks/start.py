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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import Command, free_environment, run_command

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
class Build:
    """A build of the farm whose commands are timed."""

    name: str
    command: Sequence[str]
    python: Path
    environment: dict[str, str]
    render_id: str
    folder: Path


#: What is asked, as it is shown, and its arguments.
QUESTIONS: dict[str, Callable[[Build], Sequence[str]]] = {
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
        this = prepared("this", options.this, Path(folder), python_path=str(_REPOSITORY))
        other = prepared("other", options.against, Path(folder))
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


def prepared(name: str, executable: Path, folder: Path, *, python_path: str | None = None) -> Build:
    """An arm with a FARM_HOME in which it has rendered three simulated pictures."""
    path = executable.absolute()
    is_interpreter = path.name.startswith("python")
    home = folder / name
    home.mkdir()
    (home / "models.toml").write_text(_MODELS)
    environment = free_environment(FARM_HOME=str(home), FARM_DEVICES="simulated:0")
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
    return Build(
        name=name,
        folder=home,
        command=command,
        python=path if is_interpreter else path.with_name("python"),
        environment=environment,
        # Older builds print it under another name.
        render_id=render.get("id") or render["render"],
    )


def _measured(this: Build, other: Build, rounds: int) -> dict[str, tuple[list[Command], list[Command]]]:
    """Question → samples of this build and of the other one, round by round."""
    found: dict[str, tuple[list[Command], list[Command]]] = {question: ([], []) for question in QUESTIONS}
    for number in range(rounds + 1):
        for question, arguments in QUESTIONS.items():
            pair = {}
            # Neither is always the first.
            for arm in (this, other) if number % 2 else (other, this):
                pair[arm.name] = run_command([*arm.command, *arguments(arm)], arm.environment, arm.folder)
            if number:  # the first round fills caches
                found[question][0].append(pair["this"])
                found[question][1].append(pair["other"])
    return found


def _summary(this: Sequence[Command], other: Sequence[Command]) -> dict[str, Any]:
    def figures(of: Callable[[Command], float]) -> dict[str, dict[str, float]]:
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


def _described(arm: Build, folder: Path) -> dict[str, Any]:
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
