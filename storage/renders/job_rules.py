"""What the farm's rules look at in a job: its place in the queue, its lease, whom it is left to."""

from dataclasses import dataclass

from sqlalchemy import select

from storage.database.connection import Database, database_now
from storage.database.tables import jobs
from storage.errors import NotFound
from storage.renders.views import JobView
from storage.rules.states import Priority


@dataclass(frozen=True, kw_only=True)
class RuledJob:
    """What the rules look at in a job, at one moment. Times are seconds since 1970 by the database's clock."""

    now: float
    owner: str
    priority: Priority
    #: Of its owner's fair share (`storage.jobs.fair_share`).
    round: int
    #: It is rendered alone: its process died with it, or its lease ran out.
    alone: bool
    #: Its last worker leaves it to others until then; None: no longer.
    elsewhere_until: float | None
    #: Then it goes back to the queue, unless its worker renews its lease; None: it has none.
    lease_until: float | None


class JobRules:
    """Answers what the rules look at in single jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job: JobView) -> RuledJob:
        """Return what the rules look at in a job. Raises NotFound if it was deleted since."""
        now = database_now().label("now")
        of_job = (
            jobs.c.owner,
            jobs.c.priority,
            jobs.c.round,
            jobs.c.suspect,
            jobs.c.elsewhere_until,
            jobs.c.lease_until,
        )
        with self._database.read() as connection:
            row = connection.execute(select(*of_job, now).where(jobs.c.id == job.row_id)).first()
        if row is None:
            raise NotFound(f"job {job.id} has been deleted")
        elsewhere = row.elsewhere_until if row.elsewhere_until is not None and row.elsewhere_until > row.now else None
        return RuledJob(
            now=row.now,
            owner=row.owner,
            priority=Priority(row.priority),
            round=row.round,
            alone=row.suspect,
            elsewhere_until=elsewhere,
            lease_until=row.lease_until,
        )
