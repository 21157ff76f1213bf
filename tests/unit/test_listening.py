"""The socket that the API answers on."""

import asyncio
import socket
import subprocess
import sys

import pytest

from scheduler.cli.api import listening
from storage.errors import BadSettings


def test_answers_are_sent_at_once_piece_by_piece() -> None:
    # With Nagle's algorithm each answer would wait 40 ms for the client to acknowledge its head.
    async def at_once() -> bool:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(serve, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            async with server:
                return bool(await asyncio.wait_for(accepted, timeout=60))

    assert asyncio.run(at_once())


def test_a_port_that_is_taken_is_named() -> None:
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BadSettings, match=f"--port {port}: cannot listen there"):
            listening("127.0.0.1", port)


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 8192, 4096), (256, 512, 512), (5000, 8192, 5000)])
def test_it_may_hold_as_many_connections_as_there_are_places(soft: int, hard: int, then: int) -> None:
    limited = f"""
import resource
from scheduler.cli.api import hold_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
hold_connections()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True)
    assert done.stdout == f"({then}, {hard})\n"
    assert ("this system allows 512 open files" in done.stderr) == (hard == 512)
