"""Looks that are shared: how many begin, and that none is older than what called for it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from scheduler.api.page.looks import SharedLook, SharedLooks
from scheduler.api.waiting.farm_log import FarmLog, News
from storage.errors import NotFound
from tests.servers import eventually

VISITORS = 20


def test_whoever_comes_while_a_look_goes_on_shares_the_next_one() -> None:
    looks, begun, go_on = SharedLooks(), [], threading.Event()

    def look() -> int:
        begun.append(time.monotonic())
        assert go_on.wait(30)
        return len(begun)

    with ThreadPoolExecutor(VISITORS + 1) as threads:
        first = threads.submit(looks.get, "page", time.monotonic(), look)
        eventually(lambda: begun, "the first look has begun")
        came = [time.monotonic() for _ in range(VISITORS)]
        others = [threads.submit(looks.get, "page", at, look) for at in came]
        go_on.set()
        assert first.result() == 1
        # Not what had been read before they came.
        assert [one.result() for one in others] == [2] * VISITORS
    assert len(begun) == 2
    assert begun[1] >= max(came)


def test_a_look_that_began_after_what_called_for_it_serves() -> None:
    looks, numbers = SharedLooks(), iter(range(10))
    called = time.monotonic()
    look = SharedLook(looks=looks, since=called)
    assert look.once("page", lambda: next(numbers)) == 0
    assert look.once("page", lambda: next(numbers)) == 0
    assert SharedLook(looks=looks, since=time.monotonic()).once("page", lambda: next(numbers)) == 1
    assert look.once("page", lambda: next(numbers)) == 1
    assert look.once("another", lambda: next(numbers)) == 2


def test_what_a_look_raises_is_told_to_all_who_share_it() -> None:
    looks, looked = SharedLooks(), []

    def look() -> None:
        looked.append(1)
        raise NotFound("no render")

    since = time.monotonic()
    for _ in range(3):
        with pytest.raises(NotFound, match="no render"):
            looks.get("page", since, look)
    assert len(looked) == 1
    with pytest.raises(NotFound):
        looks.get("page", time.monotonic(), look)
    assert len(looked) == 2


def test_what_nobody_asks_for_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, now = SharedLooks(), [time.monotonic()]
    monkeypatch.setattr("scheduler.api.page.looks.time.monotonic", lambda: now[0])
    for number in range(100):
        looks.get(number, now[0], lambda: "x" * 1000)
    assert len(looks) == 100
    now[0] += 60
    looks.get("page", now[0], lambda: "")
    assert len(looks) == 1


def test_news_is_known_since_it_was_told_last() -> None:
    log = FarmLog()
    before = time.monotonic()
    log.tell([News(topic="renders", kind="render", data="{}")])
    at = log.told_at(log.place())
    assert at is not None
    assert before <= at <= time.monotonic()
    log.tell([])
    assert log.told_at(log.place()) == at
    # Another process's, and what is yet to come.
    assert log.told_at("abc.1") is None
    assert log.told_at(log.place(99)) is None
    log.lose()
    assert (log.told_at(log.place()) or 0) > at
