"""A cable that is long: whatever is said arrives later, each way. It runs in a process of its own."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection


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
    from tests.proxy import Proxy, proxy_loop

    with proxy_loop() as loop:
        proxy = Proxy(loop, target)
        proxy.delay = seconds
        connection.send(proxy.port)
        connection.recv()
        proxy.close()
