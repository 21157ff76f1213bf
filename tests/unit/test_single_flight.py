"""Who asks at the same moment shares a reading, and no answer is older than its question."""

import asyncio
import threading

import pytest

from scheduler.api.waiting.single_flight import SingleFlight


class Slow:
    """A reading that ends when it is let go, and returns how many there were before."""

    def __init__(self) -> None:
        self.begun = 0
        self._may_end = threading.Semaphore(0)

    def __call__(self) -> int:
        self.begun += 1
        assert self._may_end.acquire(timeout=60)
        return self.begun

    def let_go(self, times: int = 1) -> None:
        self._may_end.release(times)

    async def has_begun(self, times: int) -> None:
        while self.begun < times:
            await asyncio.sleep(0.001)


def test_all_who_ask_while_one_goes_on_share_the_next() -> None:
    async def all_of_it() -> None:
        read, shared = Slow(), SingleFlight[int]()
        first = asyncio.ensure_future(shared.get("a key", read))
        await read.has_begun(1)
        crowd = [asyncio.ensure_future(shared.get("a key", read)) for _ in range(300)]
        read.let_go(2)
        assert await first == 1
        assert await asyncio.gather(*crowd) == [2] * 300
        assert read.begun == 2
        assert len(shared) == 0

    asyncio.run(all_of_it())


def test_other_things_are_read_beside_it() -> None:
    async def all_of_it() -> None:
        read, shared = Slow(), SingleFlight[int]()
        one = asyncio.ensure_future(shared.get("a key", read))
        await read.has_begun(1)
        assert await shared.get("another", lambda: 0) == 0
        read.let_go()
        assert await one == 1

    asyncio.run(all_of_it())


def test_who_leaves_takes_the_answer_from_nobody() -> None:
    async def all_of_it() -> None:
        read, shared = Slow(), SingleFlight[int]()
        gone, stays = (asyncio.ensure_future(shared.get("a key", read)) for _ in range(2))
        await read.has_begun(1)
        gone.cancel()
        read.let_go()
        assert await stays == 1

    asyncio.run(all_of_it())


def test_what_it_raises_all_are_told_and_the_next_one_is_tried() -> None:
    def fail() -> int:
        raise OSError("away")

    async def all_of_it() -> None:
        shared = SingleFlight[int]()
        for told in await asyncio.gather(*(shared.get("a key", fail) for _ in range(3)), return_exceptions=True):
            assert isinstance(told, OSError)
        assert await shared.get("a key", lambda: 7) == 7
        with pytest.raises(OSError, match="away"):
            await shared.get("a key", fail)

    asyncio.run(all_of_it())
