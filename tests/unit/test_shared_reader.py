"""The reader for all who wait: it outlives a database that is away, and ends when it is told to."""

import asyncio
from collections.abc import Iterator
from threading import Event

from scheduler.api.waiting.shared_reader import SharedReader
from storage.errors import DatabaseProblem


class Reader(SharedReader[int, str]):
    """Somebody waits until the third thing is told, or it is over."""

    def __init__(self, looks: Iterator[str | Exception | Event]) -> None:
        super().__init__(every_seconds=0.01, ending=Event())
        self.ending = self._ending
        self.looks = looks
        self.told: list[str] = []
        self.errors: list[Exception | None] = []
        self.over = asyncio.Event()

    def _asked(self) -> int | None:
        return None if self.over.is_set() else len(self.told)

    def _look(self, asked: int) -> str:
        found = next(self.looks)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Event):
            found.wait()
            return "late"
        return f"{found}{asked}"

    def _tell(self, found: str) -> None:
        self.told.append(found)
        if len(self.told) == 3:
            self.over.set()

    def _end(self, error: Exception | None) -> None:
        self.errors.append(error)
        self.over.set()

    async def read(self) -> None:
        self._awake()
        await asyncio.wait_for(self.over.wait(), 60)


def test_who_waits_goes_on_waiting_while_the_database_is_away() -> None:
    async def told() -> Reader:
        reader = Reader(iter(["a", DatabaseProblem("away"), DatabaseProblem("away"), "b", "c"]))
        await reader.read()
        return reader

    reader = asyncio.run(told())
    assert (reader.told, reader.errors) == (["a0", "b1", "c2"], [])


def test_an_error_of_another_kind_is_told() -> None:
    error = ZeroDivisionError("a mistake")

    async def told() -> Reader:
        reader = Reader(iter(["a", error]))
        await reader.read()
        return reader

    reader = asyncio.run(told())
    assert (reader.told, reader.errors) == (["a0"], [error])


def test_it_ends_when_the_api_stops_though_the_database_does_not_answer() -> None:
    hangs = Event()

    async def told() -> Reader:
        reader = Reader(iter(["a", hangs]))
        reading = asyncio.create_task(reader.read())
        while not reader.told:
            await asyncio.sleep(0)
        reader.ending.set()
        await reading
        hangs.set()
        return reader

    reader = asyncio.run(told())
    assert (reader.told, reader.errors) == (["a0"], [None])
