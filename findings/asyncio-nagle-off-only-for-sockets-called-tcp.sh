#!/usr/bin/env bash
# asyncio switches Nagle's algorithm off only for sockets whose protocol was named when they were made. A listening
# socket made by `socket.socket(AF_INET, SOCK_STREAM)` has protocol 0, its accepted connections too, although the kernel
# made it TCP. uvicorn, given such a socket (`Server.run(sockets=[...])`, socket activation), writes head and body of an
# answer as two segments, and Linux holds the second one back until the client acknowledges the first: 40 ms an answer.
#
# Seen with uvicorn 0.54 on CPython 3.11: TCP_NODELAY of an accepted connection
#   socket(AF_INET, SOCK_STREAM): 0
#   socket(AF_INET, SOCK_STREAM, IPPROTO_TCP): 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "uvicorn==0.54.*" 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
import http.client
import socket
import sys
import threading
import time

import uvicorn

LEVEL = (socket.IPPROTO_TCP, socket.TCP_NODELAY)


def nodelay_of_a_connection(*protocol):
    """Ask a server for the option of the very connection that the request came over."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, *protocol)
    listener.bind(("127.0.0.1", 0))

    async def app(scope, receive, send):
        [connection] = server.server_state.connections
        option = connection.transport.get_extra_info("socket").getsockopt(*LEVEL)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(int(bool(option))).encode()})

    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    client = http.client.HTTPConnection(*listener.getsockname())
    client.request("GET", "/")
    answer = client.getresponse().read().decode()
    client.close()
    server.should_exit = True
    thread.join()
    return answer


said = (
    f"socket(AF_INET, SOCK_STREAM): {nodelay_of_a_connection()}\n"
    f"socket(AF_INET, SOCK_STREAM, IPPROTO_TCP): {nodelay_of_a_connection(socket.IPPROTO_TCP)}"
)
print(said)
sys.exit(said != "socket(AF_INET, SOCK_STREAM): 0\nsocket(AF_INET, SOCK_STREAM, IPPROTO_TCP): 1")
PY
