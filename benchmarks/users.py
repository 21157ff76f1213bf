"""Processes as users start them: with nothing in their environment that this suite, or make, put there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import stopped_at_the_end

_REPOSITORY = Path(__file__).resolve().parents[1]
#: Threads of torch and NumPy, and how they wait: a Makefile sets these for tests, users do not. The farm sets its own.
_NOT_OF_USERS = ("FARM_", "GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "TORCH_")


def users_environment(**settings: str) -> dict[str, str]:
    """This process's environment without settings of threads and of the farm, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OF_USERS)}
    return kept | {"HF_HUB_OFFLINE": "1"} | settings


class Peer:
    """A program that answers lines of JSON, one at a time; it says what it does once it is ready."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for its answer. Raises RuntimeError, with the program's last words, if it ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("a peer without pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: there is no answer
        if line := self._process.stdout.readline():
            return json.loads(line)
        words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"{self._process.args!r} ended: {' / '.join(words)}")


@contextmanager
def peer(module: str, folder: Path, *arguments: str, **settings: str) -> Iterator[Peer]:
    """`python -m module arguments`, as a user would start it; its standard error goes to a file of the folder."""
    log = folder / f"{module.rpartition('.')[2]}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, *arguments],
            cwd=_REPOSITORY,
            env=users_environment(**settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process, stopped_at_the_end(process):  # type: ignore[arg-type]  # text or bytes, it is stopped alike
        yield Peer(process, log)
