"""Work that is bounded: so much at the same time, no thread for who waits, and nothing for who has gone."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from scheduler.api.access import Caller
from scheduler.api.problems import Refused
from scheduler.api.waiting.bounded import Bounded
from storage.access.keys import Limits, Role

CALLER = Caller(owner="ann", role=Role.READ, limits=Limits(), key_id="1")


def request(*, gone: Callable[[], bool] = lambda: False) -> Request:
    async def receive() -> Any:
        if gone():
            return {"type": "http.disconnect"}
        return await asyncio.Future()

    return Request({"type": "http", "method": "GET", "headers": []}, receive)


def test_so_much_is_done_at_the_same_time_and_no_more() -> None:
    both, now, most = threading.Barrier(2, timeout=60), 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        both.wait()
        with counting:
            now -= 1

    async def all_of_them() -> None:
        bounded = Bounded("works", at_once=2)
        await asyncio.gather(*(bounded.do(request(), CALLER, work) for _ in range(10)))
        assert bounded.places.busy == 0

    asyncio.run(all_of_them())
    assert most == 2


def test_nothing_is_done_for_a_caller_who_has_gone_while_they_waited() -> None:
    begun, end, gone, done = threading.Event(), threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        assert end.wait(60)

    async def both() -> None:
        bounded = Bounded("works", at_once=1)
        one = asyncio.ensure_future(bounded.do(request(), CALLER, first))
        await asyncio.to_thread(begun.wait, 60)
        other = asyncio.ensure_future(bounded.do(request(gone=gone.is_set), CALLER, lambda: done.append("other")))
        await asyncio.sleep(0)
        assert bounded.places.busy == 2
        gone.set()
        end.set()
        await one
        with pytest.raises(Refused) as refused:
            await other
        assert refused.value.status == 499
        assert bounded.places.busy == 0

    asyncio.run(both())
    assert done == []
