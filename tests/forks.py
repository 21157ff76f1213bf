"""Processes of the farm that are forked from one that has imported everything (`tests.fork_server`)."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from tests.servers import eventually, running

Kind = Literal["light", "torch", "pull"]
#: In which environment torch and what belongs to it are forked: they look at it when they are imported.
WITH_TORCH = {"HF_HUB_OFFLINE": "1"}


@contextmanager
def forking(folder: Path, kind: Kind, hub: Mapping[str, str] = WITH_TORCH) -> Iterator[str]:
    """A fork server; its address. `hub` is what those that it starts with torch find as HF_… in their environment."""
    # Here, for it imports what only the server needs.
    from tests import fork_server

    address, log = folder / "forks", folder / "forks.log"
    # It is no process of the farm for which it happens to be started.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "HF_"))}
    environment |= ({} if kind == "light" else dict(hub)) | {"ROOM_OF_FORKS": fork_server.ROOM["environment"]}
    command = [sys.executable, "-m", fork_server.__name__, str(address), kind, fork_server.ROOM["arguments"]]
    with running(command, log, env=environment) as process:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return address.exists()

        # Thirteen seconds of a processor, which a busy machine may take minutes to give.
        eventually(listens, "the fork server listens", timeout=600)
        yield str(address)


class Starter:
    """Starts processes of the farm, forked by the servers whose addresses `servers` gives; without, fresh Pythons."""

    def __init__(self, servers: Callable[[Literal["forks", "forks with torch"]], str] | None = None) -> None:
        self._servers = servers
        self._own: dict[frozenset[tuple[str, str]], str] = {}

    def beside(self, hub: Mapping[str, str], address: str) -> "Starter":
        """One that knows another fork server with torch: for those that find just this as HF_… in their environment."""
        starter = Starter(self._servers)
        starter._own = {**self._own, frozenset(hub.items()): address}
        return starter

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
        stdin: IO[bytes] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `…/farm` with its arguments, or `python -m module …` where that is a module of the farm.

        Without `stdin`, there is nothing to read.
        """
        # What is loaded before a program cannot be had by forking.
        if self._servers is None or "LD_PRELOAD" in env:
            return subprocess.Popen(
                command, env=env, cwd=cwd, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        hub = {name: value for name, value in env.items() if name.startswith("HF_") and name != "HF_TOKEN"}
        # Whoever gets no torch imports it when it needs it, as usual.
        address = self._own.get(frozenset(hub.items())) or self._servers(
            "forks with torch" if hub == WITH_TORCH else "forks"
        )
        with open(os.devnull, "rb") as nothing:
            streams = [stream.fileno() for stream in (stdin or nothing, stdout, stderr)]
            return ForkedProcess(address, command, env=env, cwd=cwd, streams=streams)

    def ran(
        self, command: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `python …` to its end, as `start`, with what this process has in its environment, and `env`.

        Leaves its standard output and error in `folder`.
        """
        out, err = folder / "ran.out", folder / "ran.err"
        # Torch, once imported here, has set the place of its cache for all children.
        inherited = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = self.start(
                [sys.executable, *command], env=inherited | dict(env or {}), cwd=cwd, stdout=stdout, stderr=stderr
            )
            try:
                code = process.wait()
            finally:
                process.kill()
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())

    def said(self, program: str, *arguments: str, folder: Path) -> str:
        """What `python -c program …` says, that imports torch; fails if it fails."""
        ended = self.ran(["-c", program, *arguments], folder=folder, env=WITH_TORCH)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


class ForkedProcess(subprocess.Popen[bytes]):
    """As `Popen`, of a process that a fork server started."""

    def __init__(
        self,
        address: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        streams: Sequence[int],
        cwd: Path | None = None,
        new_session: bool = False,
    ) -> None:
        self.args = command
        self.stdin = self.stdout = self.stderr = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        place = str(cwd or Path.cwd())
        order = {"command": command, "environment": dict(env), "folder": place, "new_session": new_session}
        socket.send_fds(self._connection, [json.dumps(order).encode()], streams)
        self.pid = int(self._connection.recv(64))
        self._code: int | None = None
        self._listening = threading.Lock()

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
        """Listen so long for how it ended; whoever does not wait lets another thread listen."""
        if not self._listening.acquire(timeout=-1 if seconds is None else seconds):
            return None
        try:
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
        finally:
            self._listening.release()
