"""Accepting a render: its row, and a row for each of its pictures, whole or not at all."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

from sqlalchemy import Connection, case, insert, literal, select

from storage.access.key_locks import alone_with_key
from storage.access.quotas import accept_alone, is_alone, keep_to_limits, note_accepted
from storage.database.connection import Database, database_now
from storage.database.tables import jobs, renders
from storage.database.upsert import insert_on_conflict
from storage.errors import BadSpecification, DatabaseProblem, IdempotencyConflict
from storage.jobs.fair_share import RoundDealer
from storage.jobs.staging import CHUNK, Stage, insert_named, row_of, stage, staged
from storage.jobs.values import Idempotency, NewJob, Submission
from storage.rules.ids import random_id
from storage.rules.states import State

T = TypeVar("T")
#: Accepts a render in a transaction that is under way; its id, or that of the one accepted under the same name before.
Accept = Callable[[], str]


def accept_stream(
    database: Database,
    new_jobs: Iterable[NewJob],
    submission: Submission,
    quanta: Mapping[str, int],
    *,
    within: Callable[[Connection, Accept], T],
) -> T:
    """Accept a render whole or not at all, however many jobs are streamed: memory stays flat, and so do locks.

    Args:
        quanta: model alias → how many jobs an owner is dealt per round (the model's batch limit).
        within: run once in the transaction that accepts, and what it returns; calls what it is given to accept, or not.

    Raises:
        BadSpecification: there is nothing to render, or two jobs have one custom_id.
        QuotaExceeded, NotPermitted: the API key has no room for it now, or never.
        IdempotencyConflict: a different request of this owner was accepted under the same idempotency key.
        Whatever `new_jobs` raises while it is read; then nothing is left behind.
    """
    stream = iter(new_jobs)
    few = list(islice(stream, CHUNK))
    # Before there is a connection: of those there are few, and a key's requests wait for one another.
    alone = partial(alone_with_key, submission.key_id, submission.limits)
    if len(few) < CHUNK:
        with alone(), database.write() as connection:
            return within(connection, partial(_accept_few, connection, few, submission, quanta))
    before = _accepted_before(database, submission)
    if before is not None:
        with database.write() as connection:
            return within(connection, lambda: before)
    # A long manifest is read before the transaction that accepts it, which then is short.
    with stage(database) as staging:
        staging.fill(chain(few, stream))
        with alone(), staging.accepting() as connection:
            return within(connection, partial(_accept_staged, connection, staging, submission, quanta))


def _accepted_before(database: Database, submission: Submission) -> str | None:
    """Look before a long manifest is read for nothing."""
    if submission.once is None:
        return None
    with database.read() as connection:
        return accepted_before(connection, submission.owner, submission.once)


def _accept_few(connection: Connection, few: list[NewJob], submission: Submission, quanta: Mapping[str, int]) -> str:
    render_id = random_id()
    accepted = _render(connection, render_id, submission, Counter(one.spec.model for one in few))
    if accepted != render_id:
        return accepted
    dealer = _dealer(connection, submission, quanta)
    shared = _shared(render_id, submission)
    rows = [
        {**shared, **row_of(one), "index": index, "round": dealer.round(one.spec.model)}
        for index, one in enumerate(few)
    ]
    if submission.together:
        rows = [{**row, "batch_key": f"{row['batch_key']}:{render_id}"} for row in rows]
    insert_named(connection, jobs, rows)
    return render_id


def _accept_staged(connection: Connection, staging: Stage, submission: Submission, quanta: Mapping[str, int]) -> str:
    """Accept what was gathered before by one statement, however many jobs there are."""
    render_id = random_id()
    accepted = _render(connection, render_id, submission, staging.models)
    if accepted != render_id:
        return accepted
    dealer = _dealer(connection, submission, quanta)
    # Counted in jobs, as the dealer does.
    dealt = case(
        {model: staged.c.ordinal + dealer.first(model) for model in staging.models}, value=staged.c.model, else_=0
    )
    quantum = case({model: quanta[model] for model in staging.models}, value=staged.c.model, else_=1)
    batch_key = staged.c.batch_key + f":{render_id}" if submission.together else staged.c.batch_key
    values: dict[str, Any] = {
        **{name: literal(value) for name, value in _shared(render_id, submission).items()},
        **{name: staged.c[name] for name in ("index", "model", "seed", "spec", "custom_id", "labels")},
        "batch_key": batch_key,
        "round": dealt // quantum,
    }
    rows = select(*values.values()).order_by(staged.c.index)
    copying = insert(jobs).from_select([*values], rows, include_defaults=False)
    written = connection.execute(copying.execution_options(preserve_rowcount=True)).rowcount
    if written != staging.total:
        raise DatabaseProblem(
            f"{written} rows were staged where {staging.total} pictures were submitted; nothing was accepted: "
            "two submitters share one session of the database"
        )
    return render_id


def _dealer(connection: Connection, submission: Submission, quanta: Mapping[str, int]) -> RoundDealer:
    return RoundDealer(connection, owner=submission.owner, priority=submission.priority, quanta=quanta)


def _shared(render_id: str, submission: Submission) -> dict[str, Any]:
    """Return the columns that all jobs of a render have in common."""
    return {
        "render_id": render_id,
        "owner": submission.owner,
        "priority": int(submission.priority),
        "state": str(State.HELD if submission.held else State.QUEUED),
        "watched": submission.watched,
        # Named where it has a value only: PostgreSQL knows no type of a bare NULL among selected values.
        **({} if submission.threads is None else {"threads": submission.threads}),
        **({} if submission.replay is None else {"replay": submission.replay}),
    }


def _render(connection: Connection, render_id: str, submission: Submission, pictures: Counter[str]) -> str:
    """Insert the row of a render; its id, or that of the render accepted before under the same idempotency key.

    A concurrent request with this key waits here until the first one is accepted or refused.

    Args:
        pictures: model → how many of it.

    Raises QuotaExceeded, NotPermitted where the API key has no room for it; BadSpecification if there are none.
    """
    key_id, total = submission.key_id, pictures.total()
    if key_id is not None:
        accept_alone(connection, key_id, submission.limits)
    while True:
        if key_id is not None and is_alone(submission.limits) and not _repeats(connection, submission):
            keep_to_limits(connection, key_id, submission.limits, total)
        if _insert_render(connection, render_id, submission, pictures) or submission.once is None:
            if not total:
                raise BadSpecification("nothing to render: no prompt was given")
            if key_id is not None:
                note_accepted(connection, key_id, submission.limits, total)
            return render_id
        # None: it was purged between the two statements, and the name is free.
        if (before := accepted_before(connection, submission.owner, submission.once)) is not None:
            return before


def _repeats(connection: Connection, submission: Submission) -> bool:
    """Whether a render was accepted under this idempotency key: it is not counted again."""
    return submission.once is not None and accepted_before(connection, submission.owner, submission.once) is not None


def _insert_render(connection: Connection, render_id: str, submission: Submission, pictures: Counter[str]) -> bool:
    """Insert the row of a render; False if its idempotency key is taken."""
    once = submission.once
    statement = (
        insert_on_conflict(connection, renders)
        .values(
            id=render_id,
            owner=submission.owner,
            priority=submission.priority,
            total=pictures.total(),
            models=f" {' '.join(sorted(pictures))} ",
            created_at=database_now(),
            key_id=submission.key_id,
            watched=submission.watched,
            held=submission.held,
            **_times(submission),
            webhook_url=submission.webhook.url if submission.webhook else None,
            webhook_events=" ".join(submission.webhook.events) if submission.webhook else None,
            webhook_form=submission.webhook.form if submission.webhook else None,
            api_url=submission.webhook.api_url if submission.webhook else None,
            idempotency_key=once.name if once else None,
            request_hash=once.request_hash if once else None,
            name=submission.name,
            note=submission.note,
        )
        .on_conflict_do_nothing(index_elements=[renders.c.owner, renders.c.idempotency_key])
        .returning(renders.c.id)
    )
    return connection.execute(statement).first() is not None


def _times(submission: Submission) -> dict[str, Any]:
    if (times := submission.times) is None:
        return {}
    return {**times.__dict__, "window_open": not submission.held}


def accepted_before(connection: Connection, owner: str, once: Idempotency) -> str | None:
    """Find the render that was accepted under this key; None if there is none.

    Raises IdempotencyConflict if that was a different request.
    """
    before = connection.execute(
        select(renders.c.id, renders.c.request_hash).where(
            renders.c.owner == owner, renders.c.idempotency_key == once.name
        )
    ).first()
    if before is None:
        return None
    if before.request_hash != once.request_hash:
        raise IdempotencyConflict(
            f"idempotency key {once.name!r} reused with a different request; it belongs to render {before.id}"
        )
    return str(before.id)
