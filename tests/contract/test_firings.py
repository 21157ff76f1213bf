"""What is taken is accepted beside the clock: nothing that is wrong with one schedule is another one's trouble."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from scheduler.cron.acceptors import LONG_THREADS, SHORT_THREADS
from scheduler.cron.firing import ScheduleRunner
from scheduler.intake.order import Order
from scheduler.intake.templates import Templates
from storage.database.connection import Database
from storage.database.schedule_tables import schedules, ticking
from storage.jobs.jobs import Jobs
from storage.objects.inputs import put_input
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.firings import Gate, accepting, claimed, prompts, taken
from tests.contract.schedules import NIGHTLY, TWO_AT_NIGHT, ByTurns, Clock, add, lapse, outcomes, runner_over
from tests.servers import eventually

#: Needs nothing of the object store.
BARE = Order(templates=Templates(texts=("a kitten",)))


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


# -- beside the clock ------------------------------------------------------------------------------------------


def test_a_schedule_that_takes_minutes_to_accept_makes_no_other_late(runner: ByTurns, clock: Clock, gate: Gate) -> None:
    slow = add(runner, name="slow", order=prompts("slow", 1500))
    quick = add(runner, name="quick", plan=replace(NIGHTLY, cron="1 2 * * *"), order=prompts("quick"))
    gate.hang(slow)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting, "the slow one is being accepted")
        assert [(one.outcome, one.note) for one in runner.schedules.history(slow)] == [
            (FiringOutcome.TAKEN, "being accepted")
        ]
        for _ in range(15):
            clock.moment += 10
            ticks.run_once()
        eventually(lambda: outcomes(runner, quick) == [FiringOutcome.FIRED], "the quick one has fired")
        assert outcomes(runner, slow) == [FiringOutcome.TAKEN]
        gate.open()
        eventually(lambda: outcomes(runner, slow) == [FiringOutcome.FIRED], "the slow one has fired, too")


def test_a_store_that_hangs_for_some_holds_up_neither_short_nor_long_ones_of_others(
    runner: ByTurns, clock: Clock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.cron.acceptors._FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr("scheduler.cron.acceptors._LONGEST_PAUSE_SECONDS", 3600.0)
    hanging = [add(runner, name=f"hangs {n}", order=prompts(f"hangs {n}")) for n in range(SHORT_THREADS)]
    gate.hang(*hanging)
    gate.fails = True
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting == SHORT_THREADS, "every thread of the short ones hangs")
        long = add(runner, name="long", order=prompts("long", 1500))
        short = add(runner, name="short", order=prompts("short"))
        ticks.run_once()
        eventually(lambda: outcomes(runner, long) == [FiringOutcome.FIRED], "the long one has fired meanwhile")
        assert outcomes(runner, short) == [FiringOutcome.TAKEN]

        gate.open()  # and each of them is told that it timed out
        eventually(lambda: outcomes(runner, short) == [FiringOutcome.FIRED], "the short one, after their first try")
    assert [outcomes(runner, one) for one in hanging] == [[FiringOutcome.TAKEN]] * SHORT_THREADS
    assert {one.note for this in hanging for one in runner.schedules.history(this)} == {"objects: read timeout"}


def test_short_ones_wait_for_no_long_ones(runner: ByTurns, clock: Clock, gate: Gate) -> None:
    long = [add(runner, name=f"long {n}", order=prompts(f"long {n}", 1500)) for n in range(LONG_THREADS + 1)]
    short = add(runner, name="short", order=prompts("short"))
    gate.hang(*long)
    clock.moment = TWO_AT_NIGHT
    with accepting(runner) as ticks:
        ticks.run_once()
        eventually(lambda: gate.waiting == LONG_THREADS, "every thread of the long ones is at work")
        eventually(lambda: outcomes(runner, short) == [FiringOutcome.FIRED], "the short one has fired")
        gate.open()
        eventually(lambda: {*outcomes(runner, long[-1])} == {FiringOutcome.FIRED}, "the last long one has fired")


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_the_clock_waits_for_no_schedule_that_is_locked(runner: ByTurns, clock: Clock, database: Database) -> None:
    locked, free = add(runner, name="a"), add(runner, name="b")
    runner.ticks.run_once()
    clock.moment = TWO_AT_NIGHT
    with database.write() as connection:  # as whoever copies a million rows does
        connection.execute(select(schedules).where(schedules.c.id == locked.id).with_for_update())
        connection.execute(select(ticking).with_for_update())  # and one that froze while it ticked
        runner.ticks.run_once()
        assert [outcomes(runner, one) for one in (locked, free)] == [[], [FiringOutcome.TAKEN]]
        for _ in range(20):
            clock.moment += 30
            runner.ticks.run_once()
    runner.run_once()
    assert [outcomes(runner, one) for one in (locked, free)] == [[FiringOutcome.FIRED]] * 2


# -- late is what came due while nobody was ticking ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(300, FiringOutcome.TAKEN), (3600, FiringOutcome.MISSED)], ids=["waited", "was frozen"]
)
def test_what_came_due_while_a_tick_waited_for_the_database_is_not_missed(
    runner: ByTurns, seconds: float, outcome: FiringOutcome
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, cron="1 2 * * *"))
    # Read when the tick begins, when it has the database to itself, and when it ends.
    moments = iter([TWO_AT_NIGHT, TWO_AT_NIGHT + seconds, TWO_AT_NIGHT + seconds])
    ScheduleRunner(runner.schedules, runner.firings, clock=lambda: next(moments)).run_once()
    assert outcomes(runner, schedule) == [outcome]


def test_what_came_due_while_a_tick_waited_for_another_schedule_is_not_missed(runner: ByTurns) -> None:
    first = add(runner, name="a")
    second = add(runner, name="b", plan=replace(NIGHTLY, cron="1 2 * * *"))
    later = TWO_AT_NIGHT + 300
    moments = iter([TWO_AT_NIGHT, TWO_AT_NIGHT, later, later + 2, later + 2, later + 2])
    ticks = ScheduleRunner(runner.schedules, runner.firings, clock=lambda: next(moments))
    ticks.run_once()
    ticks.run_once()
    assert [outcomes(runner, one) for one in (first, second)] == [[FiringOutcome.TAKEN]] * 2


@pytest.mark.parametrize(
    ("step", "outcome"), [(30, FiringOutcome.TAKEN), (90, FiringOutcome.MISSED)], ids=["ticking", "down"]
)
def test_a_time_is_missed_only_if_no_process_was_ticking(
    runner: ByTurns, clock: Clock, step: float, outcome: FiringOutcome
) -> None:
    clock.moment = TWO_AT_NIGHT - 1000
    while clock.moment <= TWO_AT_NIGHT + 1000:  # another process, that cannot read this schedule
        runner.firings.tick(began=clock.moment, gap=60, clock=clock)
        clock.moment += step
    schedule = add(runner)
    runner.ticks.run_once()
    assert outcomes(runner, schedule) == [outcome]


def test_a_process_that_was_killed_before_a_time_and_back_long_after_it_has_missed_it(
    runner: ByTurns, clock: Clock, farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT - 5
    runner.ticks.run_once()
    clock.moment = TWO_AT_NIGHT + 600
    runner_over(farm, database, objects, clock).run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.MISSED]


# -- what is wrong with one is nobody else's trouble -----------------------------------------------------------------


def test_what_kills_whoever_accepts_it_is_given_up(runner: ByTurns, clock: Clock) -> None:
    schedule, other = add(runner, name="a"), add(runner, name="b")
    taken(runner, schedule)
    for attempt in range(1, 6):
        assert claimed(runner, long=attempt > 1).attempt == attempt
        lapse(runner)
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.note) == (
        FiringOutcome.FAILED,
        "given up after 5 attempts, its process died or hung each time",
    )
    assert outcomes(runner, other) == [FiringOutcome.FIRED]


def test_what_nobody_foresaw_is_tried_again_and_told(
    runner: ByTurns, clock: Clock, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, other = add(runner, name="a"), add(runner, name="b", order=BARE)

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    # However slowly the test runs, a turn holds one try.
    monkeypatch.setattr("scheduler.cron.acceptors._FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr("scheduler.cron.acceptors._LONGEST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(objects, "copy", broken)
    clock.moment = TWO_AT_NIGHT
    for _ in range(5):
        runner.run_once()
        assert outcomes(runner, schedule) == [FiringOutcome.TAKEN]
        lapse(runner)
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.note) == (
        FiringOutcome.FAILED,
        "given up after 5 attempts: internal error: RuntimeError: a bug",
    )
    assert outcomes(runner, other) == [FiringOutcome.FIRED]


def test_a_full_disk_is_waited_for(
    runner: ByTurns, clock: Clock, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = add(runner)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    clock.moment = TWO_AT_NIGHT
    with monkeypatch.context() as patched:
        patched.setattr(objects, "copy", full)
        for _ in range(10):
            runner.run_once()
            lapse(runner)
    assert [one.note for one in runner.schedules.history(schedule)] == ["[Errno 28] No space left on device"]
    runner.run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.FIRED]


@pytest.mark.parametrize("stored", [None, b'{"prompt": "a kitt', b'{"prompt": "a kitten", "steps": 0}\n'])
def test_prompts_that_cannot_be_read_fail_and_stop_no_other_schedule(
    runner: ByTurns, clock: Clock, objects: ObjectStore, database: Database, stored: bytes | None
) -> None:
    bad, good = add(runner, name="a", order=prompts("bad")), add(runner, name="b", order=prompts("good"))
    if stored is None:
        objects.delete(f"inputs/{str(bad.order['rows']).partition(':')[2]}")
    else:
        order = json.dumps({**bad.order, "rows": put_input(objects, stored)})
        with database.write() as connection:
            connection.execute(schedules.update().where(schedules.c.id == bad.id).values(order=order))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(bad)
    assert firing.outcome == FiringOutcome.FAILED
    assert ("is not in the store" if stored is None else "prompts of the schedule a line 1") in str(firing.note)
    assert outcomes(runner, good) == [FiringOutcome.FIRED]


@pytest.mark.parametrize(
    "spoiled",
    [
        {"order": "{not json"},
        {"order": "[]"},
        {"order": '{"pictures": "many"}'},
        {"cron": "now and then"},
        {"timezone": "Europe/Atlantis"},
        {"timezone": "../../etc/passwd"},
        {"window": "at night"},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_stops_no_other_schedule(
    runner: ByTurns, clock: Clock, database: Database, spoiled: dict[str, str]
) -> None:
    bad = add(runner, name="a", plan=replace(NIGHTLY, window="01:00-06:00"))
    good = add(runner, name="b", plan=replace(NIGHTLY, window="03:00-06:00"))
    with database.write() as connection:
        connection.execute(schedules.update().where(schedules.c.id == bad.id).values(**spoiled))

    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(good)
    assert Views(database).render(str(firing.render_id)).held
    clock.moment = TWO_AT_NIGHT + 3600
    runner.run_once()
    assert not Views(database).render(str(firing.render_id)).held
    assert FiringOutcome.FIRED not in outcomes(runner, bad)


# -- windows -------------------------------------------------------------------------------------------------------


def test_windows_of_long_renders_and_of_others_are_kept_apart(
    runner: ByTurns, clock: Clock, database: Database
) -> None:
    plan = replace(NIGHTLY, window="03:00-06:00")
    made = [add(runner, name=str(pictures), plan=plan, order=prompts("a", pictures)) for pictures in (1, 1500)]
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    found = [str(runner.schedules.history(one)[0].render_id) for one in made]

    def held() -> list[bool]:
        return [Views(database).render(render_id).held for render_id in found]

    clock.moment = TWO_AT_NIGHT + 3600
    assert held() == [True, True]
    runner.windows.run_once(long=False)
    assert held() == [False, True]
    runner.windows.run_once(long=True)
    assert held() == [False, False]
