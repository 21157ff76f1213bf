"""Any two moves of jobs that meet on PostgreSQL: one stops between two of its statements while the other is made.

A claim, or a completion, is one call of a function there: it is stopped within, by triggers of the tests' own.

Whatever the order, the rows are then as if one move had followed the other. SQLite's writers never meet.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, insert, select, text

import storage.database.connection
from storage.database.connection import Database, database_now
from storage.database.tables import batches, faults, jobs, orphans, renders
from storage.jobs.jobs import Jobs
from storage.jobs.values import Claim, ClaimedJob
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from tests.contract.renders import KITTEN, assert_rows_agree, published, rendered
from tests.servers import PostgresServer, eventually
from tests.shared_servers import POSTGRES_TEMPLATE

pytestmark = pytest.mark.slow

QUANTA = {"tiny": 8}
RENDER = "render"
#: One runs, one failed, two wait.
STATES = (State.RUNNING, State.FAILED, State.QUEUED, State.QUEUED)
RUNNING = ClaimedJob(id=1, render_id=RENDER, index=0, spec=KITTEN, fence=1, attempt=1)

Move = Callable[[Jobs], object]


def _complete(farm: Jobs) -> object:
    return farm.complete(rendered(Claim(jobs=(RUNNING,), next_priority=None)), published(RUNNING))


#: What brings a job back to the queue.
RETURNS: dict[str, Move] = {
    "given back": lambda farm: farm.requeue_from_worker(worker="w1"),
    "set back": lambda farm: farm.recover([RUNNING], Fault.STORE_AWAY, "away"),
    "swept": lambda farm: farm.recover_lapsed(),
    "retried": lambda farm: farm.retry(RENDER, quanta=QUANTA),
}
#: What ends a job that runs, without its picture.
FAULTS: dict[str, Move] = {
    "failed": lambda farm: farm.recover([RUNNING], Fault.BAD_SPECIFICATION, "cannot be drawn"),
}
#: What people do to a render.
DECISIONS: dict[str, Move] = {
    "held": lambda farm: farm.hold(RENDER),
    "released": lambda farm: farm.release(RENDER),
    "cancelled": lambda farm: farm.cancel(RENDER),
    "made urgent": lambda farm: farm.reprioritise(RENDER, Priority.INTERACTIVE, quanta=QUANTA),
}
#: What workers do.
WORK: dict[str, Move] = {
    "claimed": lambda farm: farm.claim(model="tiny", worker="w2", limit=1),
    "completed": _complete,
}
MOVES = RETURNS | FAULTS | DECISIONS | WORK
#: These pass over what another move is about to change, and come again.
PATIENT = {"claimed", "swept"}
#: The table of pairs: what can meet. (Returns among themselves, and completions, meet in `test_jobs_races`.)
PAIRS = [
    *itertools.product(RETURNS, DECISIONS),
    *itertools.product(DECISIONS, RETURNS),
    *itertools.product(DECISIONS, DECISIONS),
    *itertools.product(DECISIONS, WORK),
    *itertools.product(WORK, DECISIONS),
    *itertools.product(["retried"], RETURNS),
    *itertools.product(FAULTS, [*DECISIONS, *RETURNS, *WORK]),
    *itertools.product([*DECISIONS, *RETURNS, *WORK], FAULTS),
    *itertools.product(RETURNS, WORK),
    *itertools.product(WORK, RETURNS),
]


@dataclass(frozen=True)
class Start:
    held: bool
    #: Whether the lease of what runs has run out.
    lapsed: bool


class Ring:
    """One database, two farms over it with connections of their own, and a render to play with."""

    def __init__(self, url: str) -> None:
        self.database, self.second = (Database(url) for _ in range(2))
        # What it is told on its one connection holds for its next move.
        self.first = Database(url, connections=1)
        self.errors: list[str] = []
        for database in (self.first, self.second):
            event.listen(database.engine, "handle_error", lambda met: self.errors.append(str(met.original_exception)))

    def close(self) -> None:
        for database in (self.database, self.first, self.second):
            database.close()

    def set_up(self, start: Start) -> None:
        now = database_now()
        with self.database.write() as connection:
            for table in (orphans, faults, batches, jobs, renders):
                connection.execute(delete(table))
            connection.execute(
                insert(renders).values(
                    id=RENDER, owner="ann", priority=1, total=len(STATES), failed=1, created_at=now, held=start.held
                )
            )
            for index, state in enumerate(STATES):
                claimed = state is not State.QUEUED
                spec = {"seed": 0, "spec": KITTEN.canonical(), "batch_key": KITTEN.batch_key(), "model": "tiny"}
                connection.execute(
                    insert(jobs).values(
                        id=index + 1,
                        render_id=RENDER,
                        index=index,
                        owner="ann",
                        priority=1,
                        round=0,
                        **spec,
                        state=State.HELD if start.held and not claimed else state,
                        fence=int(claimed),
                        attempt=int(claimed),
                        worker="w1" if claimed else None,
                        lease_until=now + (-1 if start.lapsed else 3600) if state is State.RUNNING else None,
                        finished_at=now if state is State.FAILED else None,
                    )
                )

    def outcome(self) -> Any:
        assert_rows_agree(self.database)
        with self.database.read() as connection:
            made = connection.execute(select(renders.c.held, renders.c.priority)).one()
            of_jobs = select(jobs.c.state, jobs.c.priority, jobs.c.attempt, jobs.c.fence).order_by(jobs.c.id)
            return tuple(made), tuple(map(tuple, connection.execute(of_jobs)))

    def one_after_the_other(self, moves: Iterable[Move], start: Start) -> Any:
        self.set_up(start)
        for move in moves:
            move(Jobs(self.first))
        return self.outcome()

    def interleaved(self, paused: Move, made: Move, start: Start, *, at: int) -> Any:
        """Stop a move before its `at`-th statement, the commit being the last; None if it has fewer."""
        self.set_up(start)
        reached, go = threading.Event(), threading.Event()
        left = itertools.count(1)

        def pause(*_: object) -> None:
            if next(left) == at:
                reached.set()
                go.wait(60)

        for name in ("before_cursor_execute", "commit"):
            event.listen(self.first.engine, name, pause)
        try:
            return self._meet(paused, made, Stop(reached.is_set, go.set))
        finally:
            for name in ("before_cursor_execute", "commit"):
                event.remove(self.first.engine, name, pause)

    def interleaved_within(self, paused: Move, made: Move, start: Start, *, at: int) -> Any:
        """The same of a move that is one call of the server's: it stops before its `at`-th statement that writes."""
        self.set_up(start)
        with autocommitting(self.first) as its:
            its.execute(text("SELECT set_config('farm.stop_at', :at, false)"), {"at": str(at)})
        with autocommitting(self.database) as keeper:
            keeper.execute(text("SELECT pg_advisory_lock(:stop)"), {"stop": STOP})

            def go() -> None:
                keeper.execute(text("SELECT pg_advisory_unlock(:stop)"), {"stop": STOP})

            return self._meet(paused, made, Stop(lambda: self._waiting(at_stop=True) > 0, go))

    def _meet(self, paused: Move, made: Move, stop: "Stop") -> Any:
        with ThreadPoolExecutor(2) as threads:
            try:
                first = threads.submit(paused, Jobs(self.first))
                eventually(lambda: first.done() or stop.reached(), "the move stops, or has been made")
                if not stop.reached():
                    first.result()
                    return None
                second = threads.submit(made, Jobs(self.second))
                eventually(
                    lambda: second.done() or self._waiting(at_stop=False) > 0, "the other is made, or waits for a lock"
                )
            finally:
                stop.go()
            first.result()
            second.result()
        return self.outcome()

    def _waiting(self, *, at_stop: bool) -> int:
        """How many wait for a lock: where they are to stop, or another."""
        waiting = text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted "
            "AND (locktype = 'advisory' AND classid = 0 AND objid = :stop) = :at_stop "
            "AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
        )
        with self.database.read() as connection:
            return int(connection.execute(waiting, {"stop": STOP, "at_stop": at_stop}).scalar_one())


@dataclass(frozen=True)
class Stop:
    """Where a move is to stop: whether it has, and what lets it go on."""

    reached: Callable[[], bool]
    go: Callable[[], object]


@contextmanager
def autocommitting(database: Database) -> Iterator[Connection]:
    with database.engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


#: An advisory lock: whoever is told to stop waits for it.
STOP = 7001
_STOPS = """
CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    left_over integer := coalesce(nullif(current_setting('farm.stop_at', true), ''), '0');
BEGIN
    PERFORM set_config('farm.stop_at', (left_over - 1)::text, false);
    IF left_over = 1 THEN
        PERFORM pg_advisory_lock(7001);
        PERFORM pg_advisory_unlock(7001);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER stop BEFORE UPDATE ON jobs EXECUTE FUNCTION stop_here();
CREATE TRIGGER stop BEFORE INSERT ON batches EXECUTE FUNCTION stop_here();
CREATE TRIGGER stop BEFORE UPDATE ON renders EXECUTE FUNCTION stop_here();
CREATE TRIGGER stopped_late AFTER UPDATE ON jobs EXECUTE FUNCTION stop_here();
CREATE TRIGGER stopped_late AFTER UPDATE ON renders EXECUTE FUNCTION stop_here();
"""


@pytest.fixture(scope="module")
def ring(postgres_server: PostgresServer) -> Iterator[Ring]:
    name = postgres_server.create(template=POSTGRES_TEMPLATE)
    ring = Ring(postgres_server.url(name))
    with ring.database.write() as connection:
        connection.exec_driver_sql(_STOPS)
    with pytest.MonkeyPatch.context() as patch:
        # Two that waited for each other would be run again, and nobody would know.
        patch.setattr(storage.database.connection, "_TRIES", 1)
        yield ring
    ring.close()
    postgres_server.drop(name)


@pytest.mark.parametrize(("paused", "made"), PAIRS)
def test_two_moves_that_meet_leave_what_one_after_the_other_leaves(ring: Ring, paused: str, made: str) -> None:
    both = (MOVES[paused], MOVES[made])
    interleaved = ring.interleaved_within if paused in WORK else ring.interleaved
    for start in _starts(paused, made):
        ring.errors.clear()
        allowed = [ring.one_after_the_other(moves, start) for moves in (both, both[::-1])]
        if passing := PATIENT & {paused, made}:
            allowed.append(ring.one_after_the_other([MOVES[other] for other in {paused, made} - passing], start))
        for at in itertools.count(1):
            found = interleaved(*both, start, at=at)
            if found is None:
                break
            assert found in allowed, f"stopped before statement {at}, {start}"
        finds_nothing = paused == "claimed" and start.held
        assert at > 2 or finds_nothing, "it was stopped nowhere"
        assert ring.errors == [], "the two moves waited for each other"


def _starts(*moves: str) -> list[Start]:
    """How the render is when they meet."""
    held = [False, True] if {"held", "released"} <= set(moves) else ["released" in moves]
    return [Start(held=one, lapsed="swept" in moves) for one in held]
