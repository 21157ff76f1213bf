"""Firings: once each, whole or not at all, whoever else fires; what was missed; windows; a month of a faked clock."""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select

from scheduler.cron.firing import ScheduleRunner
from scheduler.cron.plan import in_zone
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.manifests import manifest
from scheduler.intake.order import Order
from scheduler.intake.submit import Intake
from scheduler.intake.templates import Templates
from storage.access.keys import Keys, Limits, Role
from storage.access.quotas import Quotas
from storage.database.connection import Database
from storage.database.tables import firings, renders, schedules
from storage.database.tables import jobs as rows
from storage.errors import InvalidInput, NotFound, ObjectStoreProblem
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome, Plan, Schedule, Schedules
from storage.renders.views import Views
from storage.rules.states import State
from storage.settings import Settings
from storage.spec.registry import parse_registry
from tests.contract.renders import at_once, claim, complete, states

REGISTRY = parse_registry('[models.tiny]\nkind = "simulated"', where="here")
NIGHTLY = Plan(cron="0 2 * * *", timezone="Europe/Paris", window=None, overlap="queue", catch_up="none", seeds="fresh")
TWO_AT_NIGHT = datetime(2026, 1, 2, 1, tzinfo=UTC).timestamp()


class Clock:
    """A clock that is set by hand."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


@pytest.fixture
def clock() -> Clock:
    return Clock(TWO_AT_NIGHT - 3600)


@pytest.fixture
def runner(farm: Jobs, database: Database, objects: ObjectStore, clock: Clock) -> ScheduleRunner:
    return clockwork_over(farm, database, objects, clock)


def clockwork_over(farm: Jobs, database: Database, objects: ObjectStore, clock: Callable[[], float]) -> ScheduleRunner:
    return ScheduleRunner(
        schedules=Schedules(database, farm),
        keys=Keys(database),
        intake=Intake(
            jobs=farm,
            views=Views(database),
            quotas=Quotas(database),
            registry=REGISTRY,
            objects=objects,
            tickets=None,
        ),
        clock=clock,
    )


def add(
    runner: ScheduleRunner,
    *,
    name: str = "nightly",
    plan: Plan = NIGHTLY,
    order: Order | None = None,
    key_id: str | None = None,
    since: float = TWO_AT_NIGHT - 7200,
) -> Schedule:
    """A schedule that was made at a moment of the faked clock."""
    order = order or Order(prompts=("a kitten",), pictures_each=2)
    submitter = Submitter(owner="ann", key_id=key_id, local_files=True)
    kept = store_order(runner.intake, submitter, order, Terms(), same_seeds=plan.seeds == "same")
    made = runner.schedules.add(owner="ann", name=name, plan=plan, order=kept.model_dump(mode="json"))
    with runner.schedules.database.write() as connection:
        connection.execute(schedules.update().where(schedules.c.id == made.id).values(decided_to=since))
    return runner.schedules.get(name, owner="ann")


def outcomes(runner: ScheduleRunner, schedule: Schedule) -> list[FiringOutcome]:
    return [firing.outcome for firing in reversed(runner.schedules.history(schedule, limit=10_000))]


def finish(farm: Jobs, n: int) -> None:
    complete(farm, claim(farm, limit=n))


# -- firing ----------------------------------------------------------------------------------------------------


def test_a_schedule_fires_at_its_time_and_not_before(runner: ScheduleRunner, clock: Clock, database: Database) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT - 10
    assert runner.run_once() == pytest.approx(10)
    assert outcomes(runner, schedule) == []

    clock.moment = TWO_AT_NIGHT + 1
    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    assert (firing.outcome, firing.planned_at) == (FiringOutcome.FIRED, TWO_AT_NIGHT)
    render = Views(database).render(str(firing.render_id))
    assert (render.owner, render.total, render.state) == ("ann", 2, "running")
    assert in_zone(firing.planned_at, "Europe/Paris") == "2026-01-02 02:00 CET"


def test_two_beats_at_once_fire_once(farm: Jobs, database: Database, objects: ObjectStore, clock: Clock) -> None:
    beats = [clockwork_over(farm, Database(database.url), objects, clock) for _ in range(4)]
    schedule = add(beats[0])
    clock.moment = TWO_AT_NIGHT + 1

    at_once(*[beat.run_once for beat in beats])

    assert outcomes(beats[0], schedule) == [FiringOutcome.FIRED]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(renders)).scalar_one() == 1
    for beat in beats:
        beat.schedules.database.close()


def test_a_clock_that_steps_back_and_forth_fires_nothing_twice(runner: ScheduleRunner, clock: Clock) -> None:
    schedule = add(runner)
    for moment in (1, -3600, 1, 30, -86_400, 59):
        clock.moment = TWO_AT_NIGHT + moment
        runner.run_once()
    assert outcomes(runner, schedule) == [FiringOutcome.FIRED]


@pytest.mark.parametrize(
    ("seeds", "alike"),
    [("fresh", False), ("same", True)],
)
def test_seeds_are_fresh_or_the_same_and_recorded(
    runner: ScheduleRunner, clock: Clock, database: Database, seeds: str, *, alike: bool
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, seeds=seeds))
    for night in range(2):
        clock.moment = TWO_AT_NIGHT + night * 86_400
        runner.run_once()
    fired = [str(firing.render_id) for firing in runner.schedules.history(schedule)]
    first, second = [[job.spec.seed for job in Views(database).jobs(render_id)] for render_id in fired]
    assert (first == second) == alike


def test_files_and_templates_are_kept_with_the_schedule(
    runner: ScheduleRunner, clock: Clock, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,steps,topic,custom_id\na star,3,stars,x\n")
    order = Order(
        prompts=("a kitten",),
        manifest=manifest(file),
        templates=Templates(texts=("{red|blue} paint",)),
        defaults={"width": 64},
        combined={"guidance": [2.0, 3.0]},
    )
    schedule = add(runner, order=order)
    file.unlink()
    clock.moment = TWO_AT_NIGHT

    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    found = list(Views(database).jobs(str(firing.render_id)))
    asked = [(job.spec.prompt, job.spec.num_inference_steps, job.spec.guidance_scale) for job in found]
    assert asked == [
        *[("a kitten", 30, 2.0), ("a kitten", 30, 3.0), ("a star", 3, 2.0), ("a star", 3, 3.0)],
        *[("red paint", 30, 2.0), ("red paint", 30, 3.0), ("blue paint", 30, 2.0), ("blue paint", 30, 3.0)],
    ]
    assert [job.custom_id for job in found[2:4]] == ["x-0", "x-1"]
    assert found[2].labels == {"topic": "stars"}
    assert {job.spec.width for job in found} == {64}


def test_what_cannot_be_rendered_any_more_is_noted_and_not_tried_again(runner: ScheduleRunner, clock: Clock) -> None:
    schedule = add(runner, order=Order(prompts=("a kitten",), defaults={"model": "tiny"}))
    others = parse_registry('[models.other]\nkind = "simulated"', where="here")
    elsewhere = replace(runner, intake=replace(runner.intake, registry=others))
    clock.moment = TWO_AT_NIGHT

    elsewhere.run_once()
    runner.run_once()

    [firing] = runner.schedules.history(schedule)
    assert firing.outcome == FiringOutcome.FAILED
    assert "'tiny'" in str(firing.note)


def test_a_schedule_of_a_key_that_is_revoked_or_used_up_fires_no_more(
    runner: ScheduleRunner, clock: Clock, farm: Jobs
) -> None:
    key, _ = runner.keys.create(name="app", owner="ann", role=Role.SUBMIT, limits=Limits(queued=3))
    schedule = add(runner, key_id=key.id)
    for night in range(4):
        clock.moment = TWO_AT_NIGHT + night * 86_400
        if night == 2:
            finish(farm, 2)
        if night == 3:
            runner.keys.revoke(key.id)
        runner.run_once()
    assert outcomes(runner, schedule) == [
        FiringOutcome.FIRED,
        FiringOutcome.FAILED,
        FiringOutcome.FIRED,
        FiringOutcome.FAILED,
    ]
    notes = [
        str(firing.note) for firing in runner.schedules.history(schedule) if firing.outcome is FiringOutcome.FAILED
    ]
    assert "revoked" in notes[0]
    assert "may have 3 unfinished pictures" in notes[1]


# -- overlap, missed times, pauses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "expected", "first"),
    [
        ("skip", [FiringOutcome.FIRED, FiringOutcome.SKIPPED, FiringOutcome.FIRED], "done"),
        ("queue", [FiringOutcome.FIRED, FiringOutcome.FIRED, FiringOutcome.FIRED], "done"),
        ("cancel", [FiringOutcome.FIRED, FiringOutcome.FIRED, FiringOutcome.FIRED], "cancelled"),
    ],
)
def test_a_render_that_is_not_finished_when_the_next_is_due_follows_its_rule(
    runner: ScheduleRunner,
    clock: Clock,
    farm: Jobs,
    overlap: str,
    expected: list[FiringOutcome],
    first: str,
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, overlap=overlap))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    clock.moment += 86_400
    runner.run_once()
    while found := farm.claim(model="tiny", worker="w1", limit=8):
        complete(farm, found)
    clock.moment += 86_400
    runner.run_once()

    assert outcomes(runner, schedule) == expected
    history = runner.schedules.history(schedule)
    assert history[-1].render_state == first
    if overlap == "skip":
        assert history[1].note == f"render {history[2].render_id} was not finished"


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [FiringOutcome.MISSED] * 3),
        ("last", [FiringOutcome.MISSED, FiringOutcome.MISSED, FiringOutcome.FIRED]),
        ("all", [FiringOutcome.FIRED] * 3),
    ],
)
def test_times_missed_while_everything_was_down_follow_their_rule(
    runner: ScheduleRunner, clock: Clock, catch_up: str, expected: list[FiringOutcome]
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up=catch_up))
    clock.moment = TWO_AT_NIGHT + 2 * 86_400 + 3600
    runner.run_once()
    runner.run_once()
    assert outcomes(runner, schedule) == expected


def test_a_paused_schedule_fires_nothing_and_goes_on_from_when_it_is_resumed(
    runner: ScheduleRunner, clock: Clock
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up="all"))
    runner.schedules.pause(schedule)
    clock.moment = TWO_AT_NIGHT + 86_400
    runner.run_once()
    assert outcomes(runner, schedule) == []

    runner.schedules.resume(schedule)  # by the database's clock, which is past all that
    runner.run_once()

    assert outcomes(runner, schedule) == []
    clock.moment = runner.schedules.now() + 86_400
    runner.run_once()
    assert len(outcomes(runner, schedule)) == 1


def test_firing_by_hand_leaves_the_plan_alone(runner: ScheduleRunner, clock: Clock) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT - 100.5
    assert runner.fire_by_hand(schedule) is not None
    runner.schedules.pause(schedule)
    clock.moment += 1
    assert runner.fire_by_hand(schedule) is not None
    assert [firing.note for firing in runner.schedules.history(schedule)] == ["by hand", "by hand"]


def test_firing_by_hand_while_the_clock_stands_still_decides_nothing_that_was_planned(
    runner: ScheduleRunner, clock: Clock
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, catch_up="last"))
    clock.moment = TWO_AT_NIGHT + 5 * 3600
    assert runner.fire_by_hand(schedule) is not None
    runner.run_once()
    made_up_for, by_hand = reversed(runner.schedules.history(schedule))
    assert (made_up_for.planned_at, made_up_for.outcome, made_up_for.note) == (TWO_AT_NIGHT, FiringOutcome.FIRED, None)
    assert by_hand.note == "by hand"


def test_a_schedule_whose_prompts_cannot_be_read_now_holds_up_no_other(
    runner: ScheduleRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = add(runner, name="a"), add(runner, name="b", order=Order(templates=Templates(texts=("a kitten",))))
    clock.moment = TWO_AT_NIGHT

    def away(*_: object) -> None:
        raise ObjectStoreProblem("objects are away")

    monkeypatch.setattr(runner.intake.objects, "copy", away)
    with pytest.raises(ObjectStoreProblem):
        runner.run_once()
    assert [outcomes(runner, one) for one in (a, b)] == [[], [FiringOutcome.FIRED]]

    monkeypatch.undo()
    clock.moment += 30
    runner.run_once()
    assert outcomes(runner, a) == [FiringOutcome.FIRED]


def test_a_schedule_of_another_version_fails_and_holds_up_no_other(runner: ScheduleRunner, clock: Clock) -> None:
    newer = runner.schedules.add(owner="ann", name="a", plan=NIGHTLY, order={"invented": "later"})
    with runner.schedules.database.write() as connection:
        connection.execute(schedules.update().values(decided_to=TWO_AT_NIGHT - 7200))
    today = add(runner, name="b")
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(newer)
    assert (firing.outcome, firing.note) == (
        FiringOutcome.FAILED,
        "it was made by another version of the farm; remove it, and add it again",
    )
    assert outcomes(runner, today) == [FiringOutcome.FIRED]


def test_a_schedule_that_is_removed_leaves_its_renders(
    runner: ScheduleRunner, clock: Clock, database: Database
) -> None:
    schedule = add(runner)
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)

    runner.schedules.remove(schedule)
    clock.moment += 86_400
    runner.run_once()

    with pytest.raises(NotFound, match="no schedule named 'nightly'"):
        runner.schedules.get("nightly", owner="ann")
    assert Views(database).render(str(firing.render_id)).total == 2
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(firings)).scalar_one() == 0


def test_names_are_unique_to_their_owner(runner: ScheduleRunner) -> None:
    schedule = add(runner)
    with pytest.raises(InvalidInput, match="named 'nightly' already exists"):
        add(runner)
    bobs = runner.schedules.add(owner="bob", name="nightly", plan=NIGHTLY, order=schedule.order)
    assert [one.id for one in runner.schedules.all(owner="bob")] == [bobs.id]
    with pytest.raises(NotFound):
        runner.schedules.get("nightly", owner="eve")


# -- windows ---------------------------------------------------------------------------------------------------


def test_pictures_are_rendered_within_the_window_only(
    runner: ScheduleRunner, clock: Clock, farm: Jobs, database: Database
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="03:00-06:00", overlap="queue"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    [firing] = runner.schedules.history(schedule)
    render_id = str(firing.render_id)
    assert states(database, render_id) == [State.HELD] * 2

    clock.moment += 3600
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2
    running = claim(farm, limit=1)

    clock.moment += 3 * 3600
    runner.run_once()
    assert states(database, render_id) == [State.RUNNING, State.HELD]
    farm.requeue_from_worker(worker="w1")  # it is stopped
    assert states(database, render_id) == [State.HELD] * 2

    clock.moment += 21 * 3600
    runner.run_once()
    finish(farm, 2)
    assert Views(database).render(render_id).state == "done"
    assert running.jobs[0].render_id == render_id


def test_between_the_edges_of_a_window_people_hold_and_release_as_they_like(
    runner: ScheduleRunner, clock: Clock, farm: Jobs, database: Database
) -> None:
    schedule = add(runner, plan=replace(NIGHTLY, window="03:00-06:00"))
    clock.moment = TWO_AT_NIGHT
    runner.run_once()
    render_id = str(runner.schedules.history(schedule)[0].render_id)
    farm.release(render_id)
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2, "released by hand before it opens"

    clock.moment += 3600
    runner.run_once()
    farm.hold(render_id)
    clock.moment += 3600
    runner.run_once()
    assert states(database, render_id) == [State.HELD] * 2, "held by hand while it is open"

    clock.moment += 3 * 3600
    runner.run_once()
    clock.moment += 20 * 3600
    runner.run_once()
    assert states(database, render_id) == [State.QUEUED] * 2, "opened again"


# -- killed anywhere -------------------------------------------------------------------------------------------

#: Forks a beat for each statement of a turn of the clock, the n-th of which kills it; one that outlives its last
#: statement ends the round. Prints how many were killed.
_ROUND = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.folder import LocalObjects
from tests.contract.test_schedules import TWO_AT_NIGHT, clockwork_over

killed = 0
for n in range(1, 200):
    pid = os.fork()
    if pid == 0:
        database, left = Database(sys.argv[1]), [n]
        def die(*_):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        for name in ("before_cursor_execute", "commit"):
            event.listen(database.engine, name, die)
        objects = LocalObjects(Path(sys.argv[2]))
        clockwork_over(Jobs(database), database, objects, lambda: TWO_AT_NIGHT + 1).run_once()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    killed += 1
print(killed)
"""


def test_a_beat_that_is_killed_leaves_a_firing_with_its_render_or_neither(
    runner: ScheduleRunner, database: Database, local: Settings
) -> None:
    order = Order(prompts=("a kitten",), pictures_each=1500)
    made = [add(runner, name=name, order=order) for name in ("one", "two", "three")]

    told = subprocess.run(
        [sys.executable, "-c", _ROUND, database.url, local.objects],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert told.returncode == 0, told.stderr
    # Of each schedule: two chunks, the lock, the firing, the plan, the render, its jobs, its total, the commit.
    assert int(told.stdout) >= 20, told.stdout
    assert [outcomes(runner, schedule) for schedule in made] == [[FiringOutcome.FIRED]] * 3
    with database.read() as connection:
        fired = set(connection.execute(select(firings.c.render_id)).scalars())
        totals = {row.id: row.total for row in connection.execute(select(renders))}
        counting = select(rows.c.render_id, func.count().label("n")).group_by(rows.c.render_id)
        counted = {row.render_id: row.n for row in connection.execute(counting)}
    assert totals == counted == dict.fromkeys(fired, 1500)


# -- a month ---------------------------------------------------------------------------------------------------

PLANS = {
    "every hour at night": "0 0-5 * * *",
    "half past two": "30 2 * * *",
    "every twenty minutes at night": "*/20 1-3 * * *",
    "weekdays": "15 9 * * mon-fri",
    "first of the month": "0 0 1 * *",
}


def expected_times(name: str, month: int) -> list[str]:
    """Every planned time of a month, written down without the library."""
    first = datetime(2026, month, 1)
    days = range((datetime(2026, month + 1, 1) - first).days)
    summer_begins, summer_ends = (2026, 3, 29), (2026, 10, 25)
    found: list[str] = []
    for number in days:
        day = (2026, month, number + 1)
        date = f"2026-{month:02d}-{number + 1:02d}"
        hours = [hour for hour in range(24) if not (day == summer_begins and hour == 2)]
        if day == summer_ends:
            hours.insert(hours.index(2), 2)
        match name:
            case "every hour at night":
                # As cron does: named times fire once also in the hour that occurs twice, unlike `*`.
                found += [f"{date} {hour:02d}:00" for hour in dict.fromkeys(hours) if hour <= 5]
            case "half past two":
                found.append(f"{date} 03:00" if day == summer_begins else f"{date} 02:30")
            case "every twenty minutes at night":
                found += [
                    f"{date} {hour:02d}:{minute:02d}" for hour in hours if 1 <= hour <= 3 for minute in (0, 20, 40)
                ]
            case "weekdays":
                found += [f"{date} 09:15"] if datetime(*day).weekday() < 5 else []
            case "first of the month":
                found += [f"{date} 00:00"] if number == 0 else []
    return found


@pytest.mark.parametrize(
    ("database_kind", "month"), [("sqlite", 3), ("sqlite", 10), ("postgresql", 10)], indirect=["database_kind"]
)
def test_a_month_with_daylight_saving_two_beats_and_restarts_fires_every_time_once(
    farm: Jobs, database: Database, objects: ObjectStore, month: int
) -> None:
    paris = ZoneInfo("Europe/Paris")
    begin = datetime(2026, month, 1, tzinfo=paris).timestamp()
    end = datetime(2026, month + 1, 1, tzinfo=paris).timestamp()
    clock, dice = Clock(begin - 1), random.Random(month)
    beats = [clockwork_over(farm, Database(database.url), objects, clock) for _ in range(2)]
    made = {
        name: add(
            beats[0],
            name=name,
            plan=replace(NIGHTLY, cron=cron, catch_up="all"),
            order=Order(prompts=("a kitten",)),
            since=begin - 1,
        )
        for name, cron in PLANS.items()
    }

    while clock.moment < end - 1:
        step = dice.choice([60, 600, 1800, 3600])
        if dice.random() < 0.05:
            step = dice.choice([-600, 5 * 3600])  # the clock is set, or everything was down
        clock.moment = min(clock.moment + step, end - 1)
        if step == 3600:
            at_once(*[beat.run_once for beat in beats])
        elif dice.random() < 0.1:
            beats[0].schedules.database.close()
            beats[0] = clockwork_over(farm, Database(database.url), objects, clock)  # a restart
        else:
            dice.choice(beats).run_once()
    beats[1].run_once()

    for name, schedule in made.items():
        history = list(reversed(beats[0].schedules.history(schedule, limit=10_000)))
        planned = [datetime.fromtimestamp(firing.planned_at, paris).strftime("%Y-%m-%d %H:%M") for firing in history]
        assert Counter(planned) == Counter(expected_times(name, month)), name
        assert {firing.outcome for firing in history} == {FiringOutcome.FIRED}
        assert len({firing.render_id for firing in history}) == len(history)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(renders)).scalar_one()
    assert total == sum(len(expected_times(name, month)) for name in PLANS)
    for beat in beats:
        beat.schedules.database.close()
