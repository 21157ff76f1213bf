"""Name every request: by the caller's `X-Request-ID` or one made here, in the answer, in problems and in the log."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.process.logs import of_request

HEADER = "X-Request-ID"
#: Printable and not long: it is written into logs, and into a header. Another one is replaced.
_ALLOWED = re.compile(rb"[\x21-\x7e]{1,128}")
_KEY = "farm_request_id"


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Return the id of a request that came through `RequestIds`."""
    return str(scope[_KEY])


class RequestIds:
    """Give each request an id; stands around all else, so that no answer is without one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == HEADER.lower().encode()]
        allowed = len(given) == 1 and _ALLOWED.fullmatch(given[0])
        request_id = given[0].decode() if allowed else f"req_{secrets.token_hex(12)}"
        scope[_KEY] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with of_request(request_id):
            await self._app(scope, receive, with_id)
