"""The servers of a whole test run, each started once, when the first test asks for it.

With `pytest -n` or `--split` a process that runs no tests keeps them, and the processes that run the tests ask it for
addresses through a socket; without, the only process keeps them itself.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Lock, Thread
from typing import Literal

from storage.database.connection import Database
from storage.database.schema import upgrade
from tests import forks, servers

Name = Literal["postgresql", "moto", "rclone", "forks", "forks with torch"]

#: The database of the shared PostgreSQL that has tables and no rows, to be copied.
POSTGRES_TEMPLATE = "farm_template"


@contextmanager
def _postgresql(_: Path) -> Iterator[str]:
    with servers.postgres_cluster() as address:
        with closing(servers.PostgresServer(address)) as server:
            server.create(name=POSTGRES_TEMPLATE)
            with closing(Database(server.url(POSTGRES_TEMPLATE))) as database:
                upgrade(database)
        yield address


_STARTERS: dict[Name, Callable[[Path], AbstractContextManager[str]]] = {
    "postgresql": _postgresql,
    "moto": servers.moto_endpoint,
    "rclone": servers.rclone_endpoint,
    "forks": partial(forks.forking, kind="light"),
    "forks with torch": partial(forks.forking, kind="torch"),
}


@dataclass(frozen=True)
class Invitation:
    """How another process of the same test run reaches the keeper."""

    socket: str
    key: str

    def address(self, name: Name) -> str:
        """Ask the keeper, and wait while it starts the server."""
        with Client(self.socket, family="AF_UNIX", authkey=bytes.fromhex(self.key)) as connection:
            connection.send(name)
            answer = connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


class ServerKeeper:
    """Starts servers when they are first asked for, and ends all of them in `close`."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._stack = ExitStack()
        self._lock = Lock()
        self._addresses: dict[Name, str] = {}
        self._invitation: Invitation | None = None

    def address(self, name: Name) -> str:
        """Return the address of a server, which may have to be started first."""
        if os.getpid() != self._process:
            return self.invite().address(name)  # this is a copy of the keeper, forked with it
        with self._lock:
            if name not in self._addresses:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="farm-test-")))
                self._addresses[name] = self._stack.enter_context(_STARTERS[name](folder))
            return self._addresses[name]

    def invite(self) -> Invitation:
        """Answer other processes from now on."""
        if self._invitation is None:
            key = secrets.token_bytes(16)
            listener = Listener(family="AF_UNIX", authkey=key)
            Thread(target=self._answer, args=(listener,), name="test servers", daemon=True).start()
            self._invitation = Invitation(socket=str(listener.address), key=key.hex())
        return self._invitation

    def close(self) -> None:
        """End every server that was started; of no effect in a process that was forked from the keeper's."""
        if os.getpid() == self._process:
            with self._lock:
                self._stack.close()

    def _answer(self, listener: Listener) -> None:
        while True:
            connection = listener.accept()
            Thread(target=self._answer_one, args=(connection,), daemon=True).start()

    def _answer_one(self, connection: Connection) -> None:
        with connection:
            name: Name = connection.recv()
            try:
                connection.send(self.address(name))
            except Exception as error:  # noqa: BLE001 - raised where it was asked, in the test that needed the server
                connection.send(RuntimeError(f"{name} did not start: {error!r}"))
