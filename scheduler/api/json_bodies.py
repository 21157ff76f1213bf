"""Read JSON bodies so that nothing of them gets lost: FastAPI keeps the last of two equal keys in silence.

Text with half of a character, which JSON can escape and no database takes, is refused here once for all fields.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from scheduler.intake.files.json_text import DoubledKey, place_of_half, read_json, values_of

#: What is parsed beside other requests: a large body takes a second.
_LARGE_BYTES = 2**16
#: In a form; a route that takes one reads a file and a field.
_MOST_FILES, _MOST_FIELDS, _MOST_FIELD_BYTES = 4, 16, 2**16
#: Lists and objects in a body: an empty one takes thirty times its two bytes in memory.
_MOST_LISTS = 250_000
#: All that stands between commas, of which texts have many.
_MOST_VALUES = 1_000_000
#: One of these is in every body that has half of a character: its escapes, its bytes, or those of UTF-16 and UTF-32.
_OF_HALVES = (b"\\ud", b"\\uD", b"\xed", b"\0")
#: Fields of one object: each that is not known is an error of its own, of a kilobyte.
_MOST_KEYS = 10_000


class WrongField(HTTPException):
    """Raised for a field while a body is read. FastAPI lets this kind of error alone pass meanwhile."""

    def __init__(self, place: str, detail: str) -> None:
        super().__init__(422, detail)
        self.place = place


class JsonRoute(APIRoute):
    """A route that refuses compressed bodies, and JSON with the same key twice in one object; every router has it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            encoding = request.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                raise HTTPException(
                    415, f"the request says Content-Encoding: {encoding[:40]}; send its body as it is, not compressed"
                )
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


def _read(body: bytes) -> Any:
    """Read JSON. Raises WrongField for half of a character, and what `read_json` raises."""
    read = read_json(body)
    if any(sign in body for sign in _OF_HALVES) and (place := place_of_half(read)) is not None:
        raise WrongField(place, f"{place}: must be text without halves of characters (surrogates)".removeprefix(": "))
    return read


def _read_large(body: bytes) -> Any:
    """Read JSON. Raises HTTPException for an object with very many fields, and what `_read` raises."""
    read = _read(body)
    left = [read]
    while left:
        value = left.pop()
        if isinstance(value, dict) and len(value) > _MOST_KEYS:
            raise HTTPException(413, f"request body with an object of more than {_MOST_KEYS:,} fields; split it")
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
    return read


class _JsonRequest(Request):
    async def json(self) -> Any:
        # What was read stays, as in the class that this one extends.
        if not hasattr(self, "_json"):
            try:
                body = await self.body()
                if body.count(b"[") + body.count(b"{") > _MOST_LISTS:
                    raise HTTPException(413, f"request body with more than {_MOST_LISTS:,} lists and objects; split it")
                if values_of(body) > _MOST_VALUES:
                    raise HTTPException(413, f"request body with more than {_MOST_VALUES:,} values or commas; split it")
                # A large one takes a second: others are answered meanwhile.
                large = len(body) > _LARGE_BYTES
                self._json = await run_in_threadpool(_read_large, body) if large else _read(body)
            except DoubledKey as error:
                raise WrongField(error.place, str(error)) from None
        return self._json

    def form(self, **_limits: Any) -> Any:
        # Of files, the beginning is held in memory: a thousand of them would be a gigabyte.
        return super().form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES)
