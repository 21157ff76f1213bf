"""Schedules on a faked clock, for the suites of schedules."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scheduler.cron.acceptance import Acceptance
from scheduler.cron.acceptors import Acceptors
from scheduler.cron.firing import ScheduleRunner
from scheduler.cron.stored_orders import store_order
from scheduler.cron.windows import WindowKeeper
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.submit import Intake
from storage.access.keys import Keys
from storage.access.quotas import Quotas
from storage.database.connection import Database
from storage.database.schedule_tables import firings, schedules
from storage.jobs.jobs import Jobs
from storage.objects.store import ObjectStore
from storage.renders.firings import Firings
from storage.renders.schedules import FiringOutcome, Plan, Schedule, Schedules
from storage.renders.views import Views
from storage.settings import Settings
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


@dataclass(kw_only=True)
class ByTurns:
    """A scheduler process of one thread: what the clock takes is accepted with its next turn, then windows are kept."""

    schedules: Schedules
    firings: Firings
    keys: Keys
    intake: Intake
    clock: Callable[[], float]
    settings: Settings = field(default_factory=Settings)
    most_attempts: int = 5

    def __post_init__(self) -> None:
        self.ticks = ScheduleRunner(self.schedules, self.firings, clock=self.clock)
        self.acceptance = Acceptance(
            schedules=self.schedules,
            firings=self.firings,
            keys=self.keys,
            intake=self.intake,
            clock=self.clock,
            settings=self.settings,
        )
        self.acceptors = Acceptors(
            self.acceptance, renew_seconds=3600, every_seconds=0.05, most_attempts=self.most_attempts
        )
        self.windows = WindowKeeper(schedules=self.schedules, intake=self.intake, clock=self.clock)

    def run_once(self) -> float:
        """Take, accept everything, and keep windows; the seconds until something is due again."""
        wait = self.ticks.run_once()
        self.accept_all()
        for long in (False, True):
            self.windows.run_once(long=long)
        return wait

    def accept_all(self) -> None:
        while self.acceptors.accept_one(long=False) or self.acceptors.accept_one(long=True):
            pass

    def fire_by_hand(self, schedule: Schedule) -> str | None:
        return self.acceptance.fire_by_hand(schedule)


def runner_over(
    farm: Jobs,
    database: Database,
    objects: ObjectStore,
    clock: Callable[[], float],
    *,
    lease_seconds: float = 30.0,
    most_attempts: int = 5,
) -> ByTurns:
    return ByTurns(
        schedules=Schedules(database),
        firings=Firings(database, farm, lease_seconds=lease_seconds),
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
        most_attempts=most_attempts,
    )


def add(
    runner: ByTurns,
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


def lapse(runner: ByTurns) -> None:
    """Let all leases of firings run out, and all pauses before another try."""
    with runner.schedules.database.write() as connection:
        connection.execute(firings.update().where(firings.c.lease_until.is_not(None)).values(lease_until=0))


def outcomes(runner: ByTurns, schedule: Schedule) -> list[FiringOutcome]:
    return [firing.outcome for firing in reversed(runner.schedules.history(schedule, limit=10_000))]


def finish(farm: Jobs, n: int) -> None:
    complete(farm, claim(farm, limit=n))
