"""A crowd of one key that is answered at the same moment is told by one look what is left of its limits."""

import asyncio
import time
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from scheduler.api.access import Caller
from scheduler.api.rate_limits import RateLimits
from storage.access.keys import Limits, Role
from storage.access.quotas import UNUSED, QuotaUsage

KEY = Caller(owner="ann", role=Role.SUBMIT, limits=Limits(per_minute=5), key_id="k")


class Counted:
    """Quotas that count how often they are asked, and take as long as a database."""

    def __init__(self) -> None:
        self.asked = 0

    def used(self, *_: object) -> QuotaUsage:
        self.asked += 1
        time.sleep(0.01)
        return UNUSED


async def _answered(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 202, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _ask(app: RateLimits, caller: Caller) -> dict[bytes, bytes]:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await app({"type": "http", "method": "POST", "farm_caller": caller}, receive, send)
    return dict(said[0]["headers"])


def _crowd(caller: Caller) -> tuple[int, list[dict[bytes, bytes]]]:
    """How often was asked for three hundred answers, and their headers."""
    quotas: Any = Counted()

    async def all_at_once() -> list[dict[bytes, bytes]]:
        app = RateLimits(_answered, quotas)
        return await asyncio.gather(*(_ask(app, caller) for _ in range(300)))

    found = asyncio.run(all_at_once())
    return quotas.asked, found


def test_a_crowd_is_told_by_one_look() -> None:
    asked, found = _crowd(KEY)
    assert asked == 1
    assert {headers[b"ratelimit"] for headers in found} == {b'"requests-per-minute";r=5'}


def test_a_key_without_limits_asks_nothing() -> None:
    asked, found = _crowd(Caller(owner="ann", role=Role.SUBMIT, limits=Limits(), key_id="k"))
    assert (asked, found) == (0, [{}] * 300)
