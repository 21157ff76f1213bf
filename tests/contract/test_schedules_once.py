"""Schedules that fire once: at their time, or late, and then they have ended."""

from dataclasses import replace

import pytest

from scheduler.cron.json_forms import ScheduleForm
from storage.errors import InvalidInput
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome, Schedule
from storage.settings import Settings
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add, outcomes

ONCE = replace(NIGHTLY, cron=None, at=TWO_AT_NIGHT, catch_up="last")


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


def again(runner: ByTurns, schedule: Schedule) -> Schedule:
    return runner.schedules.get(schedule.name, owner=schedule.owner)


def test_it_fires_once_and_has_ended(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=ONCE)
    clock.moment = TWO_AT_NIGHT - 10
    assert runner.run_once() == pytest.approx(10)
    assert not again(runner, schedule).ended
    for days in (0, 1, 365):
        clock.moment = TWO_AT_NIGHT + days * 86_400
        runner.run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.FIRED]
    form = ScheduleForm.of(again(runner, schedule), clock.moment)
    assert (form.cron, form.at, form.ended, form.next_at) == (None, TWO_AT_NIGHT, True, None)


def test_one_that_has_ended_is_not_fired_by_hand(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=ONCE)
    assert runner.fire_by_hand(schedule) is not None, "before its time"
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    with pytest.raises(InvalidInput, match="nightly has ended, its time was 2026-01-02 02:00 CET; `farm schedule edit"):
        runner.fire_by_hand(again(runner, schedule))
    assert len(outcomes(runner, schedule)) == 2


@pytest.mark.parametrize(("catch_up", "outcome"), [("none", FiringOutcome.MISSED), ("last", FiringOutcome.FIRED)])
def test_one_that_was_missed_has_ended_too(
    runner: ByTurns, clock: Clock, catch_up: str, outcome: FiringOutcome
) -> None:
    schedule = add(runner, plan=replace(ONCE, catch_up=catch_up))
    clock.moment = TWO_AT_NIGHT + 5 * 3600
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert firing.outcome == outcome
    assert firing.note == (None if catch_up == "last" else "no scheduler process was running when it came due")
    assert again(runner, schedule).ended


def test_one_that_is_paused_at_its_time_has_ended_and_says_why(runner: ByTurns, clock: Clock) -> None:
    schedule = add(runner, plan=ONCE)
    runner.schedules.pause(schedule)
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.note) == (FiringOutcome.SKIPPED, "the schedule was paused")
    assert again(runner, schedule).ended
