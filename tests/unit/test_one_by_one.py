"""What is wrong with one schedule stops no other; what is wrong with a service stops them all."""

import logging
from collections.abc import Callable

import pytest

from scheduler.cron.one_by_one import one_by_one
from storage.errors import BadSpecification, DatabaseBusy, DatabaseProblem
from storage.process.logs import LogThrottle
from storage.renders.schedules import Plan, Schedule

PLAN = Plan(cron="@daily", timezone="UTC", window=None, overlap="skip", catch_up="none", seeds="fresh")


def schedule(name: str) -> Schedule:
    return Schedule(id=name, owner="ann", name=name, plan=PLAN, order={}, paused=False, created_at=0.0, decided_to=0.0)


def failing(name: str, error: Exception, done: list[str]) -> Callable[[Schedule], None]:
    def work(one: Schedule) -> None:
        if one.name == name:
            raise error
        done.append(one.name)

    return work


@pytest.mark.parametrize(
    ("error", "raises", "done"),
    [
        (BadSpecification("its plan"), None, ["a", "c"]),
        (RuntimeError("a bug"), None, ["a", "c"]),
        (DatabaseBusy("it is locked"), DatabaseBusy, ["a", "c"]),
        (DatabaseProblem("it is away"), DatabaseProblem, ["a"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_others_go_on_unless_the_database_is_away(
    error: Exception, raises: type[Exception] | None, done: list[str]
) -> None:
    found: list[str] = []
    three = [schedule(name) for name in "abc"]
    if raises is None:
        one_by_one(three, failing("b", error, found), LogThrottle())
    else:
        with pytest.raises(raises):
            one_by_one(three, failing("b", error, found), LogThrottle())
    assert found == done


def test_each_schedule_that_fails_is_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(clock=lambda: 0.0)
    with caplog.at_level(logging.ERROR):
        for name, error in [("a", RuntimeError("a bug")), ("b", BadSpecification("its plan"))] * 3:
            one_by_one([schedule(name)], failing(name, error, []), throttle)
    assert [(record.message, vars(record)["schedule"]) for record in caplog.records] == [
        ("schedule failed", "a"),
        ("schedule cannot be read", "b"),
    ]
