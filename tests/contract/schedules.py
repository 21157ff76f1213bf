"""Schedules on a faked clock, for the suites of schedules."""

from collections.abc import Callable
from datetime import UTC, datetime

from scheduler.cron.firing import ScheduleRunner
from scheduler.cron.stored_orders import store_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Intake
from storage.access.keys import Keys
from storage.access.quotas import Quotas
from storage.database.connection import Database
from storage.database.tables import schedules
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from storage.renders.schedules import FiringOutcome, Plan, Schedule, Schedules
from storage.renders.views import Views
from storage.spec.registry import parse_registry
from tests.contract.renders import claim, complete

REGISTRY = parse_registry('[models.tiny]\nkind = "simulated"', where="here")
NIGHTLY = Plan(cron="0 2 * * *", timezone="Europe/Paris", window=None, overlap="queue", catch_up="none", seeds="fresh")
TWO_AT_NIGHT = datetime(2026, 1, 2, 1, tzinfo=UTC).timestamp()


class Clock:
    """A clock that is set by hand."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def __call__(self) -> float:
        return self.moment


def runner_over(farm: Jobs, database: Database, objects: ObjectStore, clock: Callable[[], float]) -> ScheduleRunner:
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
