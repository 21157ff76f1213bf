"""A farm of any build of this project, by its own commands; what it did is read from its rows."""

import json
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.users import users_environment
from tests.servers import eventually, stopped_at_the_end

_MAIN = "scheduler.cli.main"


@dataclass(frozen=True, kw_only=True)
class Span:
    """When a picture was at the device, in seconds since the epoch."""

    begins: float
    ends: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class BuildFarm:
    """A farm that runs; whatever is called raises RuntimeError with a command's last words."""

    checkout: Path
    environment: Mapping[str, str]
    home: Path
    process: subprocess.Popen[bytes]

    def serves(self) -> bool:
        """Tell whether it has workers by now; its tables come some time after its file."""
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'workers'"
        return (self.home / "farm.db").exists() and bool(self._rows(tables) and self._rows("SELECT 1 FROM workers"))

    def submit(self, file: Path, *arguments: str) -> str:
        """Submit a prompt file; the id of its render."""
        return str(self._command("render", "--prompts", str(file), "--no-wait", "--json", *arguments)["id"])

    def cancel(self, render: str) -> None:
        """Cancel what is left of it, and wait until the devices have let go of that."""
        self._command("cancel", render, "--json")
        self.wait(render)

    def wait(self, render: str) -> None:
        """Wait until nothing of it is unfinished."""
        eventually(lambda: not self._unfinished(render), f"{render} is done")

    def running(self, render: str) -> int:
        return self._count("render_id = ? AND state = 'running'", render)

    def seconds(self, render: str) -> float:
        """From submission to the last picture's end. Raises RuntimeError if not all are done."""
        [(created, finished, done, total)] = self._rows(
            "SELECT renders.created_at, max(jobs.finished_at), sum(jobs.state = 'done'), count(*) "
            "FROM jobs JOIN renders ON renders.id = render_id WHERE render_id = ?",
            render,
        )
        if done != total:
            raise RuntimeError(f"{done} of {total} pictures are done")
        return float(finished - created)

    def spans(self, render: str) -> Sequence[Span]:
        """Return when each picture of a finished render was at the device."""
        # A build without slots claims as soon as the device is free.
        begins = "jobs.started_at"
        if self._has_column("batches", "elapsed_seconds"):
            begins = "batches.finished_at - batches.store_seconds - batches.elapsed_seconds"
        lasts = "batches.elapsed_seconds" if "elapsed" in begins else "batches.render_seconds"
        rows = self._rows(
            f"SELECT {begins}, {lasts}, jobs.spec FROM jobs "  # noqa: S608 - our own text
            "JOIN batches ON batches.id = jobs.batch_id WHERE render_id = ?",
            render,
        )
        return [
            Span(begins=began, ends=began + lasted, steps=json.loads(spec)["num_inference_steps"])
            for began, lasted, spec in rows
        ]

    def slots(self) -> Mapping[str, int] | None:
        """Return what its workers' slots did, added up; None for a build without any."""
        if not self._has_column("workers", "slots"):
            return None
        counts = [json.loads(row[0]) for row in self._rows("SELECT slots FROM workers WHERE slots IS NOT NULL")]
        return {name: sum(one[name] for one in counts) for name in counts[0]} if counts else None

    def peak_mib(self) -> float:
        """Return the most memory that one of its processes ever had."""
        return max(_peak_kib(process.pid) for process in self._processes()) / 1024

    def processor_seconds(self) -> float:
        """Return what its processes took of the processors so far: of those that live."""
        return sum(map(_processor_seconds, self._processes()))

    def workers(self) -> int:
        """Tell how many workers have announced themselves."""
        return len(self._rows("SELECT 1 FROM workers"))

    def _processes(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def _has_column(self, table: str, column: str) -> bool:
        return any(name == column for _, name, *_ in self._rows(f"PRAGMA table_info({table})"))

    def _unfinished(self, render: str) -> int:
        return self._count("render_id = ? AND state IN ('queued', 'running', 'held')", render)

    def _count(self, which: str, *values: str) -> int:
        return int(self._rows(f"SELECT count(*) FROM jobs WHERE {which}", *values)[0][0])  # noqa: S608 - our own text

    def _rows(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.home / 'farm.db'}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement, values).fetchall()

    def _command(self, *arguments: str) -> Any:
        ended = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", _MAIN, *arguments],
            cwd=self.checkout,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"farm {arguments[0]}: {ended.stderr.strip()[-300:]}")
        return json.loads(ended.stdout)


@contextmanager
def build_farm(checkout: Path, folder: Path, *, models: str, **settings: str) -> Iterator[BuildFarm]:
    """`farm up` of a checkout with this interpreter's packages, ended at the end."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "models.toml").write_text(models)
    environment = users_environment(FARM_HOME=str(home), PYTHONPATH=str(checkout), **settings)
    with (folder / "farm.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", _MAIN, "up"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    farm = BuildFarm(checkout=checkout, environment=environment, home=home, process=process)
    with stopped_at_the_end(process):
        eventually(farm.serves, "its workers serve")
        yield farm


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, linearly between values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _peak_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
