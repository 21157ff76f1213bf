"""A receiver of webhooks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Receiver:
    """Takes what is posted, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        #: Status, headers and body of the next answers; afterwards 200.
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    receiver: ClassVar[Receiver]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status, headers, words = self.receiver.answers.pop(0) if self.receiver.answers else (200, {}, b"")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(words)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(words)
        except OSError:
            return  # it has heard enough

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def webhook_receiver() -> Iterator[Receiver]:
    """One that listens on a port of this machine."""
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"receiver": receiver}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()
