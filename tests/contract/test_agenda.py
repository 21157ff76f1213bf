"""The agenda: what will run when, how long that takes, what does not fit its window."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scheduler.cron.agenda import Agenda, Agendas
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import submit_order
from scheduler.services import Services
from storage.database.connection import Database
from storage.fleet.workers import NewWorker, WorkerActivity
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore, open_objects
from storage.renders.schedules import FiringLimits, Plan
from storage.rules.render_times import RenderTimes
from storage.settings import Settings
from tests.contract.renders import pictures, submit
from tests.contract.schedules import NIGHTLY, ByTurns, finish

DAILY = replace(NIGHTLY, timezone="UTC")


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    return open_objects(local)


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    (tmp_path / "models.toml").write_text('[models.tiny]\nkind = "simulated"\n')
    return Services(settings=Settings(home=tmp_path), database=database)


def add(runner: ByTurns, name: str, plan: Plan, *, n: int = 2, owner: str = "ann") -> None:
    """A schedule that was made now, by the database's clock."""
    order = Order(prompts=("a kitten",), pictures_each=n)
    kept = store_order(runner.intake, Submitter(owner=owner), order, Terms(), same_seeds=False)
    runner.schedules.add(owner=owner, name=name, plan=plan, order=kept.model_dump(mode="json"))


def agenda(services: Services, *, days: float = 2, owner: str | None = "ann") -> Agenda:
    return Agendas(services).agenda(days=days, owner=owner)


def measured(farm: Jobs, services: Services) -> None:
    """A worker, and a pace: 2 pictures of 512 × 512 in a second."""
    services.workers.announce(
        NewWorker(name="w1", host="here", device="cpu", device_name="CPU", pid=1, models=("tiny",))
    )
    services.workers.beat("w1", WorkerActivity(state="idle", model="tiny", pictures=0, trouble=None))
    submit(farm, pictures(2))
    finish(farm, 2)


def test_each_time_is_listed_and_how_long_it_takes_is_unknown_before_anything_was_rendered(
    runner: ByTurns, services: Services
) -> None:
    add(runner, "nightly", DAILY)
    add(runner, "other", DAILY, owner="bob")
    found = agenda(services)
    assert [(one.name, one.pictures, one.seconds, one.fits) for one in found.entries] == [
        ("nightly", 2, None, None)
    ] * 2
    hours = [datetime.fromtimestamp(one.at, UTC).strftime("%H:%M") for one in found.entries]
    assert hours == ["02:00", "02:00"]
    assert found.entries[0].remarks == ["no worker serves tiny now"]
    assert {one.owner for one in agenda(services, owner=None).entries} == {"ann", "bob"}
    assert agenda(services, owner="eve").entries == []


def test_what_does_not_fit_its_window_or_its_limits_is_said(runner: ByTurns, services: Services, farm: Jobs) -> None:
    measured(farm, services)
    add(runner, "short", replace(DAILY, window="02:00-03:00"))
    add(runner, "long", replace(DAILY, window="02:00-02:01"), n=900)
    add(runner, "limited", replace(DAILY, limits=FiringLimits(pictures=1)))
    found = {one.name: one for one in agenda(services, days=1).entries}
    assert (found["short"].fits, found["short"].remarks, found["short"].devices) == (True, [], 1)
    assert found["short"].seconds == pytest.approx(found["long"].seconds / 450)  # type: ignore[operator]
    assert found["long"].fits is False
    assert found["long"].remarks[0].startswith("does not fit its window 02:00-02:01: about ")
    assert found["limited"].remarks == ["will not fire: more pictures than its limit of 1 for one firing"]


def test_what_waits_for_its_window_starts_when_that_opens(runner: ByTurns, services: Services) -> None:
    add(runner, "nightly", replace(DAILY, window="03:00-05:00"))
    [entry, _] = agenda(services).entries
    assert entry.starts_at - entry.at == 3600


def test_renders_that_are_held_until_their_time_are_on_it(runner: ByTurns, services: Services) -> None:
    now = runner.schedules.now()
    for hours in (5, 100):
        times = RenderTimes(not_before=now + hours * 3600, timezone="UTC")
        order = Order(prompts=("a kitten",), pictures_each=3)
        render_id = submit_order(runner.intake, Submitter(owner="ann"), order, Terms(times=times, held=True)).render_id
        if hours == 5:
            soon = render_id
    [entry] = agenda(services).entries
    assert (entry.kind, entry.name, entry.pictures, entry.starts_at) == ("render", soon, 3, now + 5 * 3600)


def test_what_is_left_out_is_said(runner: ByTurns, services: Services, database: Database) -> None:
    for name in ("paused", "spoiled", "often"):
        add(runner, name, replace(DAILY, cron="* * * * *"))
    runner.schedules.pause(runner.schedules.get("paused", owner="ann"))
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE schedules SET timezone = 'Mars/Base' WHERE name = 'spoiled'")
    found = agenda(services)
    assert {one.name for one in found.entries} == {"often"}
    assert len(found.entries) == 200
    assert found.remarks[0] == "schedule often fires more often: its first 200 times are shown"
    assert found.remarks[1] == "schedule paused is paused"
    assert found.remarks[2].startswith("schedule spoiled cannot fire: '* * * * *' in the time zone 'Mars/Base'")
