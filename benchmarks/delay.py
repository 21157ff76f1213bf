"""A cable that is long: whatever is said arrives later, each way. It runs in a process of its own.

It shares the cores with those whom it connects, so it does as little as can be: a delay that is the same for all makes
one queue, in the order of arrival.
"""

import multiprocessing
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

_CHUNK = 65536


@contextmanager
def delayed(target: str | int, seconds: float) -> Iterator[int]:
    """A port of this machine that leads to a socket's path, or to a port, with so much delay each way."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_carry, args=(there, target, seconds), daemon=True)
    process.start()
    try:
        port: int = here.recv()
        yield port
    finally:
        here.send("end")
        process.join(10)
        if process.is_alive():
            process.kill()


def _carry(connection: Connection, target: str | int, seconds: float) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, selectors.DefaultSelector() as selector:
        cable = _Cable(listener, target, seconds, selector)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        connection.send(listener.getsockname()[1])
        cable.run(until=connection)


class _Cable:
    """Carries what arrives at either end of each connection to the other one; empty bytes: an end was closed."""

    def __init__(
        self, listener: socket.socket, target: str | int, seconds: float, selector: selectors.BaseSelector
    ) -> None:
        self._listener = listener
        self._target = target
        self._seconds = seconds
        self._selector = selector
        self._under_way: deque[tuple[float, socket.socket, bytes]] = deque()

    def run(self, *, until: Connection) -> None:
        while True:
            wait = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
            for key, _ in self._selector.select(wait):
                if key.fileobj is until:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj, key.data)
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                _, there, said = self._under_way.popleft()
                self._say(there, said)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX) if isinstance(self._target, str) else socket.socket()
        far.connect(self._target if isinstance(self._target, str) else ("127.0.0.1", self._target))
        for one, other in ((near, far), (far, near)):
            if one.family == socket.AF_INET:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ, other)

    def _hear(self, here: socket.socket, there: socket.socket) -> None:
        try:
            said = here.recv(_CHUNK)
        except OSError:
            said = b""
        self._under_way.append((time.monotonic() + self._seconds, there, said))
        if not said:
            self._selector.unregister(here)

    def _say(self, there: socket.socket, said: bytes) -> None:
        with suppress(OSError):  # it has gone meanwhile, and nobody is left to be told
            if said:
                there.sendall(said)
            else:
                there.shutdown(socket.SHUT_WR)
