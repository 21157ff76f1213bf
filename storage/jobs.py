"""Every statement that changes a job: one guarded UPDATE per legal move (`storage.states.MOVES`).

The protocol, in one paragraph. A claim makes queued rows running, raises their `fence` and gives them a lease by the
database's clock. Every later write of the worker names the fence it was given, so a worker that lost its lease (it
was stopped, swapped out, cut off) changes nothing when it wakes. Leases that run out are swept back to the queue; a
cancel raises the fence. A render's counters move in the same transaction as its jobs.
"""

import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Update,
    case,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from storage.claims import Claim, Claimed, Published, RenderedBatch
from storage.database import Database, database_now, transaction
from storage.errors import BadSpecification
from storage.spec import Spec, read_spec
from storage.states import MOVES, Event, Priority, State
from storage.tables import batches, jobs, renders
from storage.turns import Dealer, queued

_INSERT_CHUNK = 1000
#: Crockford's base 32 in lower case: no letter that reads as a digit.
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_render_id() -> str:
    """Twelve characters of base 32: 60 bits, not to be guessed."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))


class Jobs:
    """The moves of jobs. Every method is one transaction; all but `submit` may be repeated without harm."""

    def __init__(self, database: Database, *, lease_seconds: float = 30, max_attempts: int = 3) -> None:
        self.database = database
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts

    # -- accepting ---------------------------------------------------------------------------------------------

    def submit(
        self,
        specs: Iterable[Spec],
        *,
        owner: str,
        priority: Priority,
        quanta: Mapping[str, int],
        together: bool = False,
    ) -> str:
        """Accept a render whole or not at all; its id. Specs are streamed: memory stays flat.

        Args:
            quanta: model alias → how many jobs an owner is dealt per turn (the model's batch limit).
            together: batch these jobs with one another only, never with strangers.

        Raises:
            BadSpecification: there is nothing to render.
            Whatever `specs` raises while it is read; then nothing is left behind.
        """
        render_id = new_render_id()
        with self.database.write() as connection:
            connection.execute(
                insert(renders).values(id=render_id, owner=owner, priority=priority, total=0, created_at=database_now())
            )
            dealer = Dealer(connection, owner=owner, priority=priority, quanta=quanta)
            nonce = f":{render_id}" if together else ""
            total = 0
            for chunk in _chunks(specs, _INSERT_CHUNK):
                rows = [
                    {
                        "render_id": render_id,
                        "index": total + offset,
                        "owner": owner,
                        "model": spec.model,
                        "priority": priority,
                        "turn": dealer.turn(spec.model),
                        "batch_key": spec.batch_key() + nonce,
                        "seed": spec.seed,
                        "spec": spec.canonical(),
                        "state": State.QUEUED,
                    }
                    for offset, spec in enumerate(chunk)
                ]
                connection.execute(insert(jobs), rows)
                total += len(rows)
            if not total:
                raise BadSpecification("nothing to render: no prompt was given")
            connection.execute(update(renders).where(renders.c.id == render_id).values(total=total))
        return render_id

    # -- a worker's moves --------------------------------------------------------------------------------------

    @transaction
    def claim(self, connection: Connection, *, model: str, worker: str, limit: int) -> Claim | None:
        """Take up to `limit` jobs that one pipeline call can make: the queue's head, then its next of kind.

        None if nothing of this model waits.
        """
        _one_claim_at_a_time(connection, model)
        head = connection.execute(_head(model).with_for_update(skip_locked=True)).first()
        if head is None:
            return None
        chosen = (
            select(jobs.c.id)
            .where(queued(), jobs.c.batch_key == head.batch_key)
            .order_by(jobs.c.priority, jobs.c.turn, jobs.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("chosen")
            # Else PostgreSQL may run the sub-select again and lock more rows than `limit`.
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        claimed = connection.execute(
            _move(Event.CLAIM)
            .where(jobs.c.id.in_(select(chosen.c.id)))
            .values(
                fence=jobs.c.fence + 1,
                attempt=jobs.c.attempt + 1,
                worker=worker,
                lease_until=database_now() + self._lease_seconds,
                started_at=database_now(),
                error=None,
            )
            .returning(*_CLAIMED)
        ).all()
        left = connection.execute(_head(model)).first()
        return Claim(
            jobs=tuple(
                Claimed(
                    id=row.id,
                    render_id=row.render_id,
                    index=row._mapping["index"],
                    spec=read_spec(row.spec),
                    fence=row.fence,
                    attempt=row.attempt,
                )
                for row in sorted(claimed, key=lambda row: (row.priority, row.turn, row.id))
            ),
            next_priority=None if left is None else Priority(left.priority),
        )

    @transaction
    def renew(self, connection: Connection, held: Iterable[Claimed]) -> set[int]:
        """Extend the leases that are still ours; the ids of those. The others were lost or cancelled."""
        renewed = connection.execute(
            update(jobs)
            .where(jobs.c.state == State.RUNNING, _held(held))
            .values(lease_until=database_now() + self._lease_seconds)
            .returning(jobs.c.id)
        )
        return set(renewed.scalars())

    def still_held(self, held: Iterable[Claimed]) -> set[int]:
        """Which of these jobs are still ours: `renew` without writing, cheap enough for every second."""
        with self.database.read() as connection:
            statement = select(jobs.c.id).where(jobs.c.state == State.RUNNING, _held(held))
            return set(connection.execute(statement).scalars())

    @transaction
    def complete(
        self, connection: Connection, batch: RenderedBatch, published: Sequence[Published]
    ) -> dict[int, State]:
        """Record pictures as done. Repeating it is harmless, also after a commit whose reply was lost.

        Returns:
            The jobs that are *not* ours any more, with the state that they are in; empty if all went well.
        """
        counted: Counter[str] = Counter()
        refused: dict[int, State] = {}
        for picture in sorted(published, key=lambda picture: picture.job.id):
            moved = connection.execute(
                _move(Event.COMPLETE)
                .where(_held([picture.job]))
                .values(
                    finished_at=database_now(),
                    lease_until=None,
                    batch_id=batch.id,
                    object=picture.object,
                    sha256=picture.sha256,
                    bytes=picture.bytes,
                )
            ).rowcount
            if moved:
                counted[picture.job.render_id] += 1
                continue
            now = connection.execute(select(jobs.c.state, jobs.c.fence).where(jobs.c.id == picture.job.id)).one()
            if (now.state, now.fence) != (State.DONE, picture.job.fence):
                refused[picture.job.id] = State(now.state)
        if counted:
            _record(connection, batch)
        _count(connection, renders.c.done, counted)
        return refused

    @transaction
    def fail(self, connection: Connection, job: Claimed, error: str, *, final: bool) -> State | None:
        """Record that an attempt failed: again later, or for good if `final` or no attempt is left.

        Returns the job's new state; None if the job was no longer ours.
        """
        event = Event.FAIL if final or job.attempt >= self._max_attempts else Event.GIVE_BACK
        moved = connection.execute(
            _move(event).where(_held([job])).values(error=error, **_released(finished=event is Event.FAIL))
        ).rowcount
        if not moved:
            return None
        if event is Event.FAIL:
            _count(connection, renders.c.failed, {job.render_id: 1})
        return MOVES[event][1]

    # -- taking jobs from workers ------------------------------------------------------------------------------

    @transaction
    def give_back(self, connection: Connection, *, worker: str, died: bool) -> int:
        """Return everything that a worker holds to the queue; how many jobs.

        Args:
            died: the process died with the jobs in hand, perhaps because of one of them: the attempt counts.
                A worker that was told to stop gives back without burning an attempt.
        """
        theirs = jobs.c.worker == worker
        if died:
            return self._take_back(connection, theirs, "the worker died while rendering")
        returned = connection.execute(
            _move(Event.GIVE_BACK).where(theirs).values(attempt=jobs.c.attempt - 1, **_released())
        )
        return returned.rowcount

    @transaction
    def take_back_lapsed(self, connection: Connection) -> int:
        """Return jobs whose lease ran out to the queue, or fail those without an attempt left; how many."""
        return self._take_back(connection, jobs.c.lease_until < database_now(), "the worker stopped renewing its lease")

    def _take_back(self, connection: Connection, whose: ColumnElement[bool], reason: str) -> int:
        spent = jobs.c.attempt >= self._max_attempts
        failed = connection.execute(
            _move(Event.FAIL)
            .where(whose, spent)
            .values(error=f"{reason}, in attempt {self._max_attempts}", **_released(finished=True))
            .returning(jobs.c.render_id)
        ).scalars()
        counted = Counter(failed)
        requeued = connection.execute(_move(Event.GIVE_BACK).where(whose).values(error=reason, **_released())).rowcount
        # Jobs before renders, as everywhere: transactions that lock in one order never wait for each other.
        _count(connection, renders.c.failed, counted)
        return requeued + counted.total()

    # -- a person's moves --------------------------------------------------------------------------------------

    @transaction
    def cancel(self, connection: Connection, render_id: str) -> int:
        """Cancel what is not finished; how many jobs. Raising the fence makes running workers strangers."""
        cancelled = connection.execute(
            _move(Event.CANCEL)
            .where(jobs.c.render_id == render_id)
            .values(fence=jobs.c.fence + 1, **_released(finished=True))
        ).rowcount
        _count(connection, renders.c.cancelled, {render_id: cancelled})
        return cancelled

    @transaction
    def retry(self, connection: Connection, render_id: str, *, quanta: Mapping[str, int]) -> int:
        """Queue the failed jobs of a render again, with fresh attempts and turns; how many."""
        failed = connection.execute(
            select(jobs.c.id, jobs.c.model, jobs.c.owner, jobs.c.priority)
            .where(jobs.c.render_id == render_id, jobs.c.state == State.FAILED)
            .order_by(jobs.c.id)
        ).all()
        if not failed:
            return 0
        dealer = Dealer(connection, owner=failed[0].owner, priority=Priority(failed[0].priority), quanta=quanta)
        retried = 0
        for turn, ids in _by_turn(failed, dealer):
            retried += connection.execute(
                _move(Event.RETRY).where(jobs.c.id.in_(ids)).values(turn=turn, attempt=0, error=None, finished_at=None)
            ).rowcount
        connection.execute(
            update(renders).where(renders.c.id == render_id).values(failed=renders.c.failed - retried, finished_at=None)
        )
        return retried

    # -- what waits --------------------------------------------------------------------------------------------

    def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
        """How many jobs wait, counted up to `at_most`: the cost does not grow with the backlog."""
        some = (
            select(jobs.c.id)
            .where(queued(), jobs.c.model == model, jobs.c.priority == priority)
            .limit(at_most)
            .subquery()
        )
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(some)).scalar_one()

    def best_waiting(self, models: Iterable[str]) -> dict[str, Priority]:
        """The best priority that waits for each of these models; models without waiting jobs are left out."""
        with self.database.read() as connection:
            heads = {model: connection.execute(_head(model)).first() for model in models}
        return {model: Priority(head.priority) for model, head in heads.items() if head is not None}


def _move(event: Event) -> Update:
    """The guarded UPDATE of a move; the caller says which jobs."""
    before, after = MOVES[event]
    return update(jobs).where(jobs.c.state.in_(sorted(before))).values(state=after)


def _held(held: Iterable[Claimed]) -> ColumnElement[bool]:
    """These jobs, as far as nobody claimed or cancelled them since."""
    return tuple_(jobs.c.id, jobs.c.fence).in_([(job.id, job.fence) for job in held])


def _released(*, finished: bool = False) -> dict[str, Any]:
    return {"lease_until": None, "finished_at": database_now() if finished else None}


_CLAIMED: tuple[Column[Any], ...] = (
    jobs.c.id,
    jobs.c.render_id,
    jobs.c.index,
    jobs.c.spec,
    jobs.c.fence,
    jobs.c.attempt,
    jobs.c.priority,
    jobs.c.turn,
)


def _head(model: str) -> Select[Any]:
    return (
        select(jobs.c.batch_key, jobs.c.priority)
        .where(queued(), jobs.c.model == model)
        .order_by(jobs.c.priority, jobs.c.turn, jobs.c.id)
        .limit(1)
    )


def _one_claim_at_a_time(connection: Connection, model: str) -> None:
    """Claims of one model follow one another (SQLite's transactions do anyway).

    Two interleaved claims would each get a part of what belongs in one batch. The lock goes with the transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"claim:{model}"})


def _count(connection: Connection, counter: Column[int], by_render: Mapping[str, int]) -> None:
    """Add to a counter of renders, and note the end of those that are finished by it.

    In the order of ids, so that two transactions never wait for each other.
    """
    finished = renders.c.done + renders.c.failed + renders.c.cancelled
    for render_id, n in sorted(by_render.items()):
        if n:
            connection.execute(
                update(renders)
                .where(renders.c.id == render_id)
                .values(
                    {
                        counter: counter + n,
                        renders.c.finished_at: case((finished + n >= renders.c.total, database_now())),
                    }
                )
            )


def _record(connection: Connection, batch: RenderedBatch) -> None:
    """Note what was rendered together, unless another part of the batch was completed first."""
    insert_unless_there = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    connection.execute(
        insert_unless_there(batches)
        .values(
            id=batch.id,
            worker=batch.worker,
            jobs=json.dumps([job.id for job in batch.jobs]),
            recipe=json.dumps(batch.recipe, sort_keys=True),
            render_seconds=batch.render_seconds,
            finished_at=database_now(),
        )
        .on_conflict_do_nothing()
    )


def _by_turn(failed: Iterable[Row[*tuple[Any, ...]]], dealer: Dealer) -> Iterator[tuple[int, list[int]]]:
    by_turn: defaultdict[int, list[int]] = defaultdict(list)
    for job in failed:
        by_turn[dealer.turn(job.model)].append(job.id)
    yield from by_turn.items()


def _chunks(specs: Iterable[Spec], size: int) -> Iterator[list[Spec]]:
    stream = iter(specs)
    while chunk := list(islice(stream, size)):
        yield chunk
