"""The driver's own look at the database, past every proxy, waiting where the database itself is away."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Table, func, select

from storage.database.connection import Database
from storage.database.tables import jobs, orphans
from storage.errors import DatabaseProblem
from storage.rules.states import FINAL, Priority, State
from tests.chaos.events import Events
from tests.chaos.ledger import Standing
from tests.servers import eventually

Row = Any
_LOOK_SECONDS = 0.2


class Observer:
    """Reads only."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    def close(self) -> None:
        self._database.close()

    def all(self, statement: Select[Any]) -> Sequence[Row]:
        """The rows, as soon as the database gives them."""
        found = eventually(lambda: self._try(statement), "the database answers the driver")
        return found[0] if found else ()

    def table(self, table: Table) -> Sequence[Row]:
        return self.all(select(table))

    def waiting(self) -> int:
        [row] = self.all(select(func.count()).where(jobs.c.state == State.QUEUED))
        return int(row[0])

    def unfinished(self) -> int:
        [row] = self.all(select(func.count()).where(jobs.c.state.not_in(sorted(FINAL))))
        return int(row[0])

    def orphans(self) -> int:
        """Pictures that are still to be removed."""
        [row] = self.all(select(func.count()).select_from(orphans))
        return int(row[0])

    def last_claims(self) -> dict[str, float]:
        """Worker → when it last claimed a job."""
        rows = self.all(select(jobs.c.worker, func.max(jobs.c.started_at)).group_by(jobs.c.worker))
        return {row[0]: row[1] for row in rows if row[0] is not None and row[1] is not None}

    def standing(self, render_id: str) -> Standing:
        rows = self.all(select(jobs.c.id, jobs.c.state, jobs.c.fence).where(jobs.c.render_id == render_id))
        return {row.id: (row.state, row.fence) for row in rows}

    def held(self, worker: str) -> dict[int, int]:
        """Job row → fence of what a worker holds; nothing where the database does not tell at once."""
        found = self._try(select(jobs.c.id, jobs.c.fence).where(jobs.c.worker == worker, jobs.c.state == State.RUNNING))
        return {row.id: row.fence for row in found[0]} if found else {}

    def rows(self, ids: Iterable[int]) -> Sequence[Row]:
        found = self._try(
            select(jobs.c.id, jobs.c.state, jobs.c.fence, jobs.c.started_at, jobs.c.priority).where(
                jobs.c.id.in_(sorted(ids))
            )
        )
        return found[0] if found else ()

    def _try(self, statement: Select[Any]) -> tuple[Sequence[Row]] | None:
        try:
            with self._database.read() as connection:
                return (connection.execute(statement).all(),)
        except DatabaseProblem:
            return None


@dataclass(kw_only=True)
class Loss:
    """A job that a worker held when it was killed or frozen."""

    fault: str
    fence: int
    at: float
    #: Whether a service or a scheduler process was away then.
    disturbed: bool
    #: When it was first seen to be nobody's, or already another's.
    back_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Delay:
    """How long a job whose worker was killed waited, in seconds."""

    fault: str
    job: int
    #: Until it was back in the queue; seen, and so too long by up to one look.
    back: float
    #: Until it ran again. None for a job of lower priority: it waits for those of higher priority, rightly.
    running: float | None
    #: Whether a service or a scheduler process was hit meanwhile.
    disturbed: bool


class Recoveries:
    """Watches jobs whose worker was killed until each runs again."""

    def __init__(self, observer: Observer, events: Events) -> None:
        self._observer = observer
        self._events = events
        self._lock = threading.Lock()
        self._lost: dict[int, Loss] = {}
        self._active: set[str] = set()
        self.delays: list[Delay] = []

    def service_goes(self, token: str) -> None:
        """A fault hits what recovery stands on: the database, Redis or a scheduler process."""
        with self._lock:
            self._active.add(token)
            for loss in self._lost.values():
                loss.disturbed = True

    def service_is_back(self, token: str) -> None:
        with self._lock:
            self._active.discard(token)

    def lost(self, fault: str, held: dict[int, int]) -> None:
        """A worker that held these jobs was killed just now."""
        with self._lock:
            for job, fence in held.items():
                self._lost[job] = Loss(fault=fault, fence=fence, at=time.time(), disturbed=bool(self._active))

    def watch(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            with self._lock:
                waiting = dict(self._lost)
            if waiting:
                self._look(waiting)

    def _look(self, waiting: dict[int, Loss]) -> None:
        for row in self._observer.rows(waiting):
            loss = waiting[row.id]
            if row.fence == loss.fence and row.state == State.RUNNING:
                continue
            loss.back_at = loss.back_at or time.time()
            if row.fence == loss.fence and row.state not in FINAL:
                continue
            with self._lock:
                # The same job may have been lost again since: then that loss is watched.
                if self._lost.get(row.id) is loss:
                    del self._lost[row.id]
            # Stored all the same before it was killed, or cancelled: nobody had to run it again.
            if row.fence != loss.fence and row.state != State.CANCELLED and row.started_at is not None:
                self._note(row, loss, loss.back_at)

    def _note(self, row: Row, loss: Loss, back_at: float) -> None:
        running = max(0.0, row.started_at - loss.at)
        delay = Delay(
            fault=loss.fault,
            job=row.id,
            back=min(back_at - loss.at, running),
            running=running if row.priority == Priority.INTERACTIVE else None,
            disturbed=loss.disturbed,
        )
        self.delays.append(delay)
        self._events.write(
            f"job {row.id}",
            "runs again",
            lost_by=loss.fault,
            back=round(delay.back, 2),
            after=round(running, 2),
            priority=row.priority,
            disturbed=loss.disturbed,
        )
