"""Work that is bounded: so much at the same time, no thread for who waits, and nothing for who has gone."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from scheduler.api.access import Caller
from scheduler.api.problems import Refused
from scheduler.api.waiting.bounded import Bounded, Stay
from storage.access.keys import Limits, Role

CALLER = Caller(owner="ann", role=Role.READ, limits=Limits(), key_id="1")


def request(*, gone: Callable[[], bool] = lambda: False) -> Request:
    async def receive() -> Any:
        while not gone():
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "GET", "headers": []}, receive)


def test_so_much_is_done_at_the_same_time_and_no_more() -> None:
    both, now, most = threading.Barrier(2, timeout=60), 0, 0
    counting = threading.Lock()

    def work(_stay: Stay) -> None:
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

    def first(_stay: Stay) -> None:
        begun.set()
        assert end.wait(60)

    async def both() -> None:
        bounded = Bounded("works", at_once=1)
        one = asyncio.ensure_future(bounded.do(request(), CALLER, first))
        await asyncio.to_thread(begun.wait, 60)
        other = asyncio.ensure_future(bounded.do(request(gone=gone.is_set), CALLER, lambda _stay: done.append("other")))
        await asyncio.sleep(0)
        assert bounded.places.busy == 2
        gone.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        end.set()
        await one
        with pytest.raises(Refused) as refused:
            await other
        assert refused.value.status == 499
        assert bounded.places.busy == 0

    asyncio.run(both())
    assert done == []


def test_work_of_several_steps_ends_with_its_caller() -> None:
    gone, steps = threading.Event(), []

    async def one() -> None:
        loop, told = asyncio.get_running_loop(), threading.Event()

        def work(stay: Stay) -> None:
            for step in range(1000):
                stay()
                steps.append(step)
                gone.set()
                # The loop has turned, and heard of it.
                for _ in range(3):
                    told.clear()
                    loop.call_soon_threadsafe(told.set)
                    assert told.wait(60)

        with pytest.raises(Refused) as refused:
            await Bounded("works", at_once=1).do(request(gone=gone.is_set), CALLER, work)
        assert refused.value.status == 499

    asyncio.run(one())
    assert steps == [0]
