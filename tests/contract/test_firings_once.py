"""A firing is accepted once, whoever freezes or dies meanwhile, and as its schedule's rules say."""

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from storage.database.connection import Database
from storage.database.schedule_tables import firings
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome
from storage.settings import Settings
from tests.contract.firings import Gate, accept, accepting, claimed, prompts, rendered, taken
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add, lapse, outcomes, runner_over
from tests.servers import eventually


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


# -- once ------------------------------------------------------------------------------------------------------


def test_one_that_froze_and_comes_back_accepts_nothing_again(runner: ByTurns, database: Database) -> None:
    taken(runner, add(runner))
    frozen = claimed(runner)
    lapse(runner)
    other = claimed(runner, long=True)
    assert (frozen.fence, other.fence) == (1, 2)

    assert accept(runner, frozen) is None, "while the other one accepts"
    assert accept(runner, other) is not None
    assert accept(runner, frozen) is None, "after the other one has accepted"
    assert not runner.firings.decide(frozen, FiringOutcome.FAILED, "late")
    assert not runner.firings.give_back(frozen, note="late")
    assert runner.firings.renew([frozen]) == {frozen.key}
    assert outcomes(runner, frozen.schedule) == [FiringOutcome.FIRED]
    assert rendered(database) == 1


def test_a_long_one_that_froze_and_comes_back_accepts_nothing_again(runner: ByTurns, database: Database) -> None:
    taken(runner, add(runner), long=True)
    frozen = claimed(runner, long=True)
    lapse(runner)
    other = claimed(runner, long=True)
    assert accept(runner, frozen, pictures=1500) is None
    assert accept(runner, other, pictures=1500) is not None
    assert rendered(database) == 1


def test_one_that_was_slow_and_that_nobody_replaced_accepts_after_its_lease(runner: ByTurns) -> None:
    taken(runner, add(runner))
    slow = claimed(runner)
    lapse(runner)
    assert accept(runner, slow) is not None
    assert runner.firings.claim(long=True) is None


def test_a_lease_that_is_renewed_is_nobody_elses_to_claim(
    farm: Jobs, database: Database, objects: ObjectStore, clock: Clock
) -> None:
    runner = runner_over(farm, database, objects, clock, lease_seconds=3600)
    taken(runner, add(runner))
    mine = claimed(runner)
    assert runner.firings.claim(long=True) is None
    lapse(runner)
    assert runner.firings.renew([mine]) == set()
    assert runner.firings.claim(long=True) is None


def test_who_loses_a_firing_stops_in_the_middle_of_it(
    runner: ByTurns, clock: Clock, gate: Gate, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = add(runner, order=prompts("slow", 1500))
    gate.hang(schedule)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting, "it is being accepted")
        lapse(runner)
        other = claimed(runner, long=True)
        runner.acceptors.renew()
        gate.open()
        eventually(lambda: not runner.acceptors._in_hand, "whoever lost it has stopped")
        assert "firing was taken over by another process" in caplog.messages
        assert outcomes(runner, schedule) == [FiringOutcome.TAKEN]
        assert accept(runner, other) is not None
    assert rendered(database) == 1


def test_a_process_that_stops_leaves_what_it_has_in_hand_to_another_at_once(
    runner: ByTurns, clock: Clock, gate: Gate, database: Database
) -> None:
    schedule = add(runner, order=prompts("slow"))
    gate.hang(schedule)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting, "it is being accepted")
        runner.acceptors.close()
        other = claimed(runner, long=True)
        assert other.attempt == 1, "no attempt is counted"
        gate.open()
    assert outcomes(runner, schedule) == [FiringOutcome.TAKEN]
    assert accept(runner, other) is not None
    assert rendered(database) == 1


# -- the rules of overlap, as ever -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", [FiringOutcome.FIRED, FiringOutcome.SKIPPED]),
        ("queue", [FiringOutcome.FIRED, FiringOutcome.FIRED]),
        ("cancel", [FiringOutcome.FIRED, FiringOutcome.FIRED]),
    ],
)
def test_what_comes_due_while_the_one_before_is_being_accepted_waits_for_its_turn(
    runner: ByTurns, clock: Clock, gate: Gate, overlap: str, expected: list[FiringOutcome]
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, cron="* 2 * * *", overlap=overlap), order=prompts("slow"))
    gate.hang(schedule)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting, "the first one is being accepted")
        clock.moment += 60
        ticks.run_once()
        assert runner.firings.claim(long=False) is None
        assert [one.note for one in runner.schedules.history(schedule)] == ["waits for its turn", "being accepted"]
        gate.open()
        eventually(lambda: FiringOutcome.TAKEN not in outcomes(runner, schedule), "both are decided")
    assert outcomes(runner, schedule) == expected
    second, first = runner.schedules.history(schedule)
    assert first.render_state == ("cancelled" if overlap == "cancel" else "waiting")
    if overlap == "skip":
        assert second.note == f"render {first.render_id} was not finished"


@pytest.mark.parametrize("early", [True, False], ids=["before its prompts are read", "while they are read"])
def test_a_schedule_that_is_paused_while_it_is_accepted_skips_that(
    runner: ByTurns, database: Database, *, early: bool
) -> None:
    schedule = add(runner)
    taken(runner, schedule)
    if early:
        runner.schedules.pause(schedule)
        runner.accept_all()
    else:
        one = claimed(runner)
        runner.schedules.pause(schedule)
        assert accept(runner, one) is None
    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.note) == (
        FiringOutcome.SKIPPED,
        "the schedule was paused before it was accepted",
    )
    assert rendered(database) == 0


def test_a_schedule_that_is_removed_while_it_is_accepted_accepts_nothing(runner: ByTurns, database: Database) -> None:
    schedule = add(runner)
    taken(runner, schedule)
    one = claimed(runner)
    runner.schedules.remove(schedule)
    assert accept(runner, one) is None
    assert rendered(database) == 0
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(firings)).scalar_one() == 0
