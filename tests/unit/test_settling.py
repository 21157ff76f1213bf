"""A shard is settled while the next one is built, and what goes wrong with it is told."""

import threading

import pytest

from scheduler.export.settling import Settling
from storage.errors import ExportProblem
from tests.servers import eventually


def fail() -> None:
    raise ExportProblem("the disk is full")


def test_what_is_settled_is_done_at_the_end() -> None:
    first, second = threading.Event(), threading.Event()
    with Settling() as settling:
        settling.settle(first.set)
        settling.settle(lambda: second.set() if first.is_set() else None)
    assert second.is_set()


def test_a_shard_that_cannot_be_placed_is_told_before_the_next_one_is() -> None:
    done = threading.Event()
    settling = Settling()
    settling.settle(fail)
    with pytest.raises(ExportProblem, match="the disk is full"):
        settling.settle(done.set)
    assert not done.is_set()


def last_one_fails() -> None:
    with Settling() as settling:
        settling.settle(fail)


def test_a_last_shard_that_cannot_be_placed_is_told_at_the_end() -> None:
    with pytest.raises(ExportProblem, match="the disk is full"):
        last_one_fails()


def building_fails_too() -> None:
    with Settling() as settling:
        settling.settle(fail)
        raise ValueError("while the next one is built")


def test_what_goes_wrong_in_building_is_told_first() -> None:
    with pytest.raises(ValueError, match="while the next one is built"):
        building_fails_too()


def waits_for_pictures() -> None:
    settling = Settling()
    settling.settle(fail)
    eventually(lambda: settling.check(), "it is told to whoever waits for the next pictures")


def test_whoever_waits_for_pictures_is_told_of_a_shard_that_cannot_be_placed() -> None:
    with pytest.raises(ExportProblem, match="the disk is full"):
        waits_for_pictures()
