"""Stand in for a Python that a fork server has forked: `python -IS tests/forked.py ADDRESS -c PROGRAM`.

It lends its environment, folder and standard streams, ends as the other ends, and imports next to nothing.
"""

import json
import os
import socket
import sys


def main() -> None:
    address, *words = sys.argv[1:]
    order = {
        "command": [sys.executable, *words],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "new_session": False,
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(order).encode()], [0, 1, 2])
        connection.recv(64)
        code = int(connection.recv(64) or 1)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
