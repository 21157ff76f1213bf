"""Requests of one limited key wait for one another, but not with every thread that there is."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from storage.access.key_locks import MOST_OF_ALL_KEYS, MOST_OF_ONE_KEY, alone_with_key
from storage.access.keys import Limits
from storage.errors import DatabaseBusy
from tests.servers import eventually

LIMITED = Limits(queued=10)


class Requests:
    """Requests that are accepted when they are let."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads = threads
        self.go_on = Event()
        self.asked: list[Future[None]] = []
        self.begun: list[str] = []
        self.accepted: list[str] = []

    def ask(self, key: str, number: int) -> None:
        begun = len(self.begun) + number
        self.asked += [self.threads.submit(self._accept, key) for _ in range(number)]
        eventually(lambda: len(self.begun) == begun, "all have begun")

    def refused(self) -> int:
        return sum(one.done() and one.exception() is not None for one in self.asked)

    def _accept(self, key: str) -> None:
        self.begun.append(key)
        with alone_with_key(key, LIMITED):
            assert self.go_on.wait(60)
            self.accepted.append(key)


@pytest.fixture
def requests() -> Iterator[Requests]:
    with ThreadPoolExecutor(2 * MOST_OF_ALL_KEYS) as threads:
        made = Requests(threads)
        try:
            yield made
        finally:
            made.go_on.set()


def test_as_many_of_a_key_wait_as_may_and_the_next_is_told_to_come_back(requests: Requests) -> None:
    requests.ask("a", 1 + MOST_OF_ONE_KEY + 3)

    eventually(lambda: requests.refused() == 3, "three too many are refused")
    with alone_with_key("b", LIMITED), alone_with_key(None, LIMITED), alone_with_key("a", Limits()):
        pass
    requests.go_on.set()
    eventually(lambda: len(requests.accepted) == 1 + MOST_OF_ONE_KEY, "the others are accepted")
    with alone_with_key("a", LIMITED):
        pass


def test_those_of_all_keys_together_leave_threads_to_others(requests: Requests) -> None:
    full = MOST_OF_ALL_KEYS // MOST_OF_ONE_KEY
    for key in range(full):
        requests.ask(f"key {key}", 1 + MOST_OF_ONE_KEY)

    with alone_with_key("another", LIMITED):
        requests.ask("another", 1)
        eventually(lambda: requests.refused() == 1, "there is no room to wait")
    [told] = [one.exception() for one in requests.asked if one.done()]
    assert isinstance(told, DatabaseBusy)
    assert "try again" in str(told)
