"""The client and a store that does not give a picture away."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffusion_farm import ApiProblem, Farm

_SIGNED = "/bucket/picture.png?X-Amz-Signature=s1gned"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        at_the_store = self.path == _SIGNED
        self.send_response(403 if at_the_store else 307)
        if not at_the_store:
            self.send_header("Location", f"http://{self.headers['Host']}{_SIGNED}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """An API that sends for its pictures to a store, which refuses."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_store_that_refuses_is_told_without_the_signed_address(address: str) -> None:
    with Farm(address) as farm, pytest.raises(ApiProblem, match="the object store answers HTTP 403") as problem:
        farm._image("/v1/jobs/r-000000/image")
    assert problem.value.status == 403
    told: BaseException | None = problem.value
    while told is not None:
        assert "s1gned" not in str(told)
        told = told.__context__
