"""A process that fires schedules may be killed at any statement, and restarted on any day."""

import random
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select

from scheduler.intake.order import Order
from storage.database.connection import Database
from storage.database.schedule_tables import firings
from storage.database.tables import jobs as rows
from storage.database.tables import renders
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringOutcome
from storage.settings import Settings
from tests.contract.renders import at_once
from tests.contract.schedules import NIGHTLY, ByTurns, Clock, add, outcomes, runner_over
from tests.forks import Starter


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


# -- killed anywhere -------------------------------------------------------------------------------------------

_PICTURES = 1001
#: Forks a beat for each statement of a turn of the clock, the n-th of which kills it; one that outlives its last
#: statement ends the round. Prints how many were killed.
_ROUND = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.objects.folder import LocalObjects
from tests.contract.schedules import TWO_AT_NIGHT, ByTurns, runner_over

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
        # A lease that has run out when the next one looks, who is to be killed as well, and not given up.
        leases = {"lease_seconds": 1e-9, "most_attempts": 1000}
        runner_over(Jobs(database), database, objects, lambda: TWO_AT_NIGHT + 1, **leases).run_once()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    killed += 1
print(killed)
"""


@pytest.mark.slow
def test_a_beat_that_is_killed_leaves_a_firing_with_its_render_or_neither(
    runner: ByTurns, database: Database, local: Settings, starter: Starter, tmp_path: Path
) -> None:
    # Of two chunks of rows.
    order = Order(prompts=("a kitten",), pictures_each=_PICTURES)
    made = [add(runner, name=name, order=order) for name in ("one", "two", "three")]

    told = starter.ran(["-c", _ROUND, database.url, local.objects], folder=tmp_path)

    assert told.returncode == 0, told.stderr
    # The tick; of each schedule: the lock, the firing, the plan; the claim, the staged rows, the lock, the firing, the
    # render, its jobs, its total, the commits.
    assert int(told.stdout) >= 25, told.stdout
    assert [outcomes(runner, schedule) for schedule in made] == [[FiringOutcome.FIRED]] * 3
    with database.read() as connection:
        fired = set(connection.execute(select(firings.c.render_id)).scalars())
        totals = {row.id: row.total for row in connection.execute(select(renders))}
        counting = select(rows.c.render_id, func.count().label("n")).group_by(rows.c.render_id)
        counted = {row.render_id: row.n for row in connection.execute(counting)}
    assert totals == counted == dict.fromkeys(fired, _PICTURES)


# -- ten days --------------------------------------------------------------------------------------------------

PLANS = {
    "hourly": "0 * * * *",
    "half past two": "30 2 * * *",
    "every twenty minutes at night": "*/20 1-3 * * *",
    "weekdays": "15 9 * * mon-fri",
    "first of the month": "0 0 1 * *",
}
#: Days over which the clocks change, a weekend and a month's end.
SPRING, AUTUMN = date(2026, 3, 24), date(2026, 10, 24)
DAYS = 10


def expected_times(name: str, first: date) -> list[str]:
    """Every planned time of the ten days, written down without the library."""
    summer_begins, summer_ends = date(2026, 3, 29), date(2026, 10, 25)
    found: list[str] = []
    for day in (first + timedelta(days=number) for number in range(DAYS)):
        hours = [hour for hour in range(24) if not (day == summer_begins and hour == 2)]
        if day == summer_ends:
            hours.insert(hours.index(2), 2)
        match name:
            case "hourly":
                found += [f"{day} {hour:02d}:00" for hour in hours]
            case "half past two":
                found.append(f"{day} 03:00" if day == summer_begins else f"{day} 02:30")
            case "every twenty minutes at night":
                found += [
                    f"{day} {hour:02d}:{minute:02d}" for hour in hours if 1 <= hour <= 3 for minute in (0, 20, 40)
                ]
            case "weekdays":
                found += [f"{day} 09:15"] if day.weekday() < 5 else []
            case "first of the month":
                found += [f"{day} 00:00"] if day.day == 1 else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database_kind", "first"),
    [("sqlite", SPRING), ("sqlite", AUTUMN), ("postgresql", AUTUMN)],
    indirect=["database_kind"],
    ids=str,
)
def test_ten_days_with_daylight_saving_two_beats_and_restarts_fire_every_time_once(
    farm: Jobs, database: Database, objects: ObjectStore, first: date
) -> None:
    paris = ZoneInfo("Europe/Paris")
    midnights = (datetime.combine(day, time(), paris) for day in (first, first + timedelta(days=DAYS)))
    begin, end = (midnight.timestamp() for midnight in midnights)
    clock, dice = Clock(begin - 1), random.Random(first.month)
    beats = [runner_over(farm, Database(database.url), objects, clock) for _ in range(2)]
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
            beats[0] = runner_over(farm, Database(database.url), objects, clock)  # a restart
        else:
            dice.choice(beats).run_once()
    beats[1].run_once()

    for name, schedule in made.items():
        history = list(reversed(beats[0].schedules.history(schedule, limit=10_000)))
        planned = [datetime.fromtimestamp(firing.planned_at, paris).strftime("%Y-%m-%d %H:%M") for firing in history]
        assert Counter(planned) == Counter(expected_times(name, first)), name
        assert {firing.outcome for firing in history} == {FiringOutcome.FIRED}
        assert len({firing.render_id for firing in history}) == len(history)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(renders)).scalar_one()
    assert total == sum(len(expected_times(name, first)) for name in PLANS)
    for beat in beats:
        beat.schedules.database.close()
