"""A receiver of webhooks that takes its time, errs, and remembers what it was told."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import ClassVar

_ERRS = 0.2
_SLOWEST = 3.0


class SlowReceiver:
    """Messages by id, with how often each was answered with success."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.url = ""
        self.taken: Counter[str] = Counter()


class _HookHandler(BaseHTTPRequestHandler):
    receiver: ClassVar[SlowReceiver]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.receiver.rng.uniform(0, _SLOWEST))
        errs = self.receiver.rng.random() < _ERRS
        if not errs:
            self.receiver.taken[self.headers["webhook-id"]] += 1
        try:
            self.send_response(500 if errs else 204)
            self.end_headers()
        except OSError:
            return  # the farm was killed while it waited

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def slow_receiver(rng: Random) -> Iterator[SlowReceiver]:
    """One that listens on a port of this machine."""
    receiver = SlowReceiver(rng)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_HookHandler,), {"receiver": receiver}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
