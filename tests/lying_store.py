"""Stores of objects that say one thing and do another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

Headers = dict[str, str]


class Lie(StrEnum):
    """What is wrong with a store."""

    NONE = "nothing"
    REFUSES_AND_OVERWRITES = "it says that there is one, and overwrites"
    LOSES = "it keeps a name and no bytes"
    KEEPS_NOTHING = "it says yes, and keeps nothing"
    KNOWS_NO_CONDITIONS = "it knows no conditions"
    ERROR_IN_A_YES = "it says yes, with an error"
    ANOTHER_PAGE = "a page of something else says yes to all"


_ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message></Error>'
_MISSING = _ERROR % b"NoSuchKey"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lie: ClassVar[Lie]
    kept: ClassVar[dict[str, tuple[bytes, Headers]]]

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        told = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
        key, there = self.path, self.path in self.kept
        if self.lie is Lie.KNOWS_NO_CONDITIONS:
            return self._answer(501, _ERROR % b"NotImplemented")
        if self.lie is Lie.ERROR_IN_A_YES:
            return self._answer(200, _ERROR % b"InternalError")
        if there:
            if self.lie is Lie.REFUSES_AND_OVERWRITES:
                self.kept[key] = (data, self.kept[key][1])
            return self._answer(412, _ERROR % b"PreconditionFailed")
        if self.lie is not Lie.KEEPS_NOTHING:
            self.kept[key] = (b"" if self.lie is Lie.LOSES else data, told)
        return self._answer(200, b"")

    def do_GET(self) -> None:
        if self.lie is Lie.ANOTHER_PAGE:
            return self._answer(200, b"<html>Sign in</html>")
        data, told = self.kept.get(self.path, (None, {}))
        return self._answer(404, _MISSING) if data is None else self._answer(200, data, told)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.kept.pop(self.path, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, told: Headers | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(told or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def lying_store(lie: Lie) -> Iterator[str]:
    """The address of a store with something wrong with it; it takes any key and signature."""
    handler = type("Handler", (_Handler,), {"lie": lie, "kept": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
