"""Server-sent events as a client reads them, one at a time."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

#: Each after 15 seconds of nothing.
_MOST_KEEP_ALIVES = 4


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An event."""

    id: str
    kind: str
    data: Any


class Stream:
    """A stream that is read up to what somebody looks for."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        #: All that was sent so far.
        self.sent: list[Sent] = []

    def __iter__(self) -> Iterator[Sent]:
        said: dict[str, str] = {}
        silent = 0
        for line in self._lines:
            silent = silent + 1 if line.startswith(":") else silent if not line else 0
            assert silent < _MOST_KEEP_ALIVES, f"nothing comes any more; it sent {self.sent}"
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                said[name] = value
            elif "event" in said:
                one = Sent(id=said.get("id", ""), kind=said["event"], data=json.loads(said["data"]))
                self.sent.append(one)
                said = {}
                yield one
            else:
                said = {}

    def until(self, kind: str, which: Callable[[Any], bool] = lambda _: True) -> Sent:
        """Read on until such an event has come."""
        for one in self:
            if one.kind == kind and which(one.data):
                return one
        raise AssertionError(f"the stream has ended without {kind}; it sent {self.sent}")

    def ends(self) -> None:
        """Read to its end."""
        for _ in self:
            pass


@contextmanager
def followed(client: httpx.Client, path: str = "/v1/events", *, seen: str = "", **asked: Any) -> Iterator[Stream]:
    """Follow; `seen`: the last event that was seen."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with client.stream("GET", path, params=asked or None, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.iter_lines())
