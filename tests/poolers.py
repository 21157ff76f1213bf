"""Poolers in front of PostgreSQL: PgBouncer, where it is installed, and an imitation that needs nothing."""

import os
import pwd
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import Queue
from select import select
from typing import Literal

from tests.servers import eventually, free_port, running

PoolMode = Literal["session", "transaction", "statement"]


# -- PgBouncer -------------------------------------------------------------------------------------------------


@contextmanager
def pgbouncer(server: str, *, mode: PoolMode = "transaction", size: int = 20) -> Iterator[int]:
    """PgBouncer in front of a server, by the path of its socket; the port of 127.0.0.1 on which it listens.

    Args:
        size: the server's connections that it keeps for each database.
    """
    program = _program()
    assert program is not None, "pgbouncer is not installed (Debian: apt-get install pgbouncer)"
    port = free_port()
    # Outside pytest's folders: PgBouncer refuses to run as root, and another user must be able to come in.
    with tempfile.TemporaryDirectory(prefix="farm-test-") as name:
        folder = Path(name)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"""
            [databases]
            * = host={Path(server).parent} port=5432 user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = {mode}
            default_pool_size = {size}
            max_client_conn = 1000
            server_login_retry = 1
            """
        )
        command = [program, str(settings)]
        if os.geteuid() == 0:
            # PostgreSQL's own user may go to its socket.
            owner = pwd.getpwuid(os.stat(server).st_uid)
            for path in (folder, settings):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            command += ["--user", owner.pw_name]
        with running(command, folder / "log") as process:
            eventually(lambda: process.poll() is not None or _listens(port), "PgBouncer listens")
            assert process.poll() is None, (folder / "log").read_text()
            yield port


def is_installed() -> bool:
    """Whether there is a PgBouncer to start."""
    return _program() is not None


def _program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- the imitation ---------------------------------------------------------------------------------------------


@contextmanager
def rotating_pooler(server: str, database: str, *, mode: PoolMode = "transaction", size: int = 2) -> Iterator[int]:
    """Imitate PgBouncer at its worst: each transaction gets the connection that was not used for longest.

    It speaks as much of PostgreSQL's protocol (version 3, "Frontend/Backend Protocol" in its manual) as the farm uses.
    Gives the port of 127.0.0.1 on which it listens.
    """
    with ExitStack() as stack:
        free: Queue[_Peer] = Queue()
        for _ in range(size):
            free.put(stack.enter_context(closing(_log_in(server, database))))
        threads = stack.enter_context(ThreadPoolExecutor(50, thread_name_prefix="pooled client"))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening = threads.submit(_listen, listener, lambda client: threads.submit(_serve, client, free, mode))
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        listening.result()


class _Peer:
    """One end of a connection, read without a buffer, so that `select` knows what there is to read."""

    def __init__(self, to: socket.socket) -> None:
        self.socket = to
        self.close = to.close
        self.send = to.sendall

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> tuple[bytes, bytes]:
        """Read a message: its letter, and all of it. Raises EOFError."""
        head = self.exactly(5)
        return head[:1], head + self.exactly(struct.unpack("!I", head[1:])[0] - 4)

    def exactly(self, n: int) -> bytes:
        read = b""
        while len(read) < n:
            if not (more := self.socket.recv(n - len(read))):
                raise EOFError
            read += more
        return read

    def until_ready(self) -> None:
        while self.read()[0] != b"Z":
            pass


def _log_in(path: str, database: str) -> _Peer:
    server = _Peer(socket.socket(socket.AF_UNIX))
    server.socket.connect(path)
    named = f"user\0postgres\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
    server.send(struct.pack("!II", len(named) + 8, 3 << 16) + named)
    server.until_ready()
    return server


def _listen(listener: socket.socket, serve: Callable[[_Peer], object]) -> None:
    while True:
        try:
            client = listener.accept()[0]
        except OSError:  # it was shut down
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve(_Peer(client))


def _serve(client: _Peer, free: "Queue[_Peer]", mode: PoolMode) -> None:
    with closing(client), suppress(EOFError, OSError):
        asked = client.exactly(struct.unpack("!I", client.exactly(4))[0] - 4)
        if b"\0options\0" in asked:
            return
        welcome = {"client_encoding": "UTF8", "server_version": "16.0", "standard_conforming_strings": "on"}
        said = [b"R" + struct.pack("!II", 8, 0)]
        for name, value in welcome.items():
            said.append(b"S" + struct.pack("!I", len(name) + len(value) + 6) + f"{name}\0{value}\0".encode())
        said += [b"K" + struct.pack("!III", 12, 0x7FFFFFFF, 1), b"Z" + struct.pack("!I", 5) + b"I"]
        client.send(b"".join(said))
        while True:
            select([client], [], [])
            server = free.get()
            try:
                _serve_once(client, server, whole_transactions=mode != "statement")
            except (EOFError, OSError):
                server.send(b"Q" + struct.pack("!I", 13) + b"ROLLBACK\0")
                server.until_ready()
                raise
            finally:
                free.put(server)


def _serve_once(client: _Peer, server: _Peer, *, whole_transactions: bool) -> None:
    """Pass messages on in both directions until a transaction is over."""
    awaited = 0
    while True:
        if server in select([client, server], [], [])[0]:
            letter, message = server.read()
            client.send(message)
            if letter == b"G":  # the server copies in, and passes over what it should have answered
                awaited = 0
            elif letter == b"Z":
                awaited = max(0, awaited - 1)
                if not awaited and (message[-1:] == b"I" or not whole_transactions):
                    return
            continue
        letter, message = client.read()
        if letter == b"X":
            raise EOFError
        awaited += letter in (b"Q", b"S")
        server.send(message)
