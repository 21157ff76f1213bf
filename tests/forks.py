"""Processes of the farm that are forked from one that has imported everything (`tests.fork_server`)."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from tests.servers import eventually, running

Kind = Literal["light", "torch"]
#: In which environment torch and what belongs to it were imported: they look at it then.
_TORCH = {"HF_HUB_OFFLINE": "1"}


@contextmanager
def forking(folder: Path, kind: Kind) -> Iterator[str]:
    """A fork server; its address."""
    # Here, for it imports what only the server needs.
    from tests import fork_server

    address, log = folder / "forks", folder / "forks.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= (_TORCH if kind == "torch" else {}) | {"ROOM_OF_FORKS": fork_server.ROOM["environment"]}
    command = [sys.executable, "-m", fork_server.__name__, str(address), kind, fork_server.ROOM["arguments"]]
    with running(command, log, env=environment) as process:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return address.exists()

        eventually(listens, "the fork server listens")
        yield str(address)


class Starter:
    """Starts processes of the farm, forked by the servers whose addresses `servers` gives; without, fresh Pythons."""

    def __init__(self, servers: Callable[[Literal["forks", "forks with torch"]], str] | None = None) -> None:
        self._servers = servers

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `…/farm` with its arguments, or `python -m module …` where that is a module of the farm."""
        if self._servers is None:
            return subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        # Whoever gets no torch imports it when it needs it, as usual.
        is_alike = {name: value for name, value in env.items() if name.startswith("HF_")} == _TORCH
        address = self._servers("forks with torch" if is_alike else "forks")
        return ForkedProcess(address, command, env=env, cwd=cwd, stdout=stdout, stderr=stderr)


class ForkedProcess(subprocess.Popen[bytes]):
    """As `Popen`, of a process that a fork server started."""

    def __init__(
        self,
        address: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self.args = command
        self.stdin = self.stdout = self.stderr = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        order = {"command": command, "environment": dict(env), "folder": str(cwd or Path.cwd())}
        nothing = os.open(os.devnull, os.O_RDONLY)
        streams = [nothing, stdout.fileno(), stderr.fileno()]
        socket.send_fds(self._connection, [json.dumps(order).encode()], streams)
        os.close(nothing)
        self.pid = int(self._connection.recv(64))
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:  # type: ignore[override]
        return self._code

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        if self._code is None:
            self._connection.settimeout(seconds)
            try:
                told = self._connection.recv(64)
            except (BlockingIOError, TimeoutError):
                return None
            assert told, f"the fork server ended before {self.args!r}"
            self._code = int(told)
            self._connection.close()
        return self._code
