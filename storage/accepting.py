"""Accepting a render: its row, and a row for each of its pictures, whole or not at all."""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from storage.claims import Submission, Wanted
from storage.database import database_now
from storage.errors import AskedOtherwise, BadSpecification
from storage.spec import Spec
from storage.states import State
from storage.tables import jobs, renders
from storage.turns import Dealer

_INSERT_CHUNK = 1000
#: Crockford's base 32 in lower case: no letter that reads as a digit.
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def accept(
    connection: Connection, wanted: Iterable[Wanted | Spec], submission: Submission, quanta: Mapping[str, int]
) -> str:
    """The id of the new render, or of the one that was accepted under the same name before."""
    render_id = _new_render_id()
    accepted = _render(connection, render_id, submission)
    if accepted != render_id:
        return accepted
    dealer = Dealer(connection, owner=submission.owner, priority=submission.priority, quanta=quanta)
    nonce = f":{render_id}" if submission.together else ""
    state = State.HELD if submission.held else State.QUEUED
    total = 0
    for chunk in _chunks(wanted, _INSERT_CHUNK):
        rows = [
            {
                "render_id": render_id,
                "index": total + offset,
                "owner": submission.owner,
                "model": one.spec.model,
                "priority": submission.priority,
                "turn": dealer.turn(one.spec.model),
                "batch_key": one.spec.batch_key() + nonce,
                "seed": one.spec.seed,
                "spec": one.spec.canonical(),
                "state": state,
                "watched": submission.watched,
                "custom_id": one.custom_id,
                "labels": json.dumps(one.labels, ensure_ascii=False) if one.labels else None,
            }
            for offset, one in enumerate(chunk)
        ]
        _insert(connection, rows)
        total += len(rows)
    if not total:
        raise BadSpecification("nothing to render: no prompt was given")
    connection.execute(update(renders).where(renders.c.id == render_id).values(total=total))
    return render_id


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Raises BadSpecification if a picture is called like another one of its render."""
    named = {row["custom_id"]: row["index"] for row in rows if row["custom_id"] is not None}
    if not named:
        connection.execute(insert(jobs), rows)
        return
    try:
        with connection.begin_nested():
            connection.execute(insert(jobs), rows)
    except IntegrityError:
        same = select(jobs.c.custom_id, jobs.c.index).where(
            jobs.c.render_id == rows[0]["render_id"], jobs.c.custom_id.in_(named)
        )
        before = {row.custom_id: row._mapping["index"] for row in connection.execute(same)}
        for row in rows:
            index = before.setdefault(row["custom_id"], row["index"])
            if row["custom_id"] is not None and index != row["index"]:
                raise BadSpecification(
                    f"custom_id: {row['custom_id']!r} is there twice, for pictures {index + 1} and {row['index'] + 1}"
                ) from None
        raise


def _new_render_id() -> str:
    """Twelve characters of base 32: 60 bits, not to be guessed."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))


def _render(connection: Connection, render_id: str, submission: Submission) -> str:
    """Make the row of a render; its id, or that of the render which was accepted under the same name before.

    Who asks for the same at the same time waits here until the first one is accepted, or not.
    """
    once = submission.once
    insert_unless_there = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    statement = (
        insert_unless_there(renders)
        .values(
            id=render_id,
            owner=submission.owner,
            priority=submission.priority,
            total=0,
            created_at=database_now(),
            key_id=submission.key_id,
            watched=submission.watched,
            held=submission.held,
            webhook_url=submission.webhook.url if submission.webhook else None,
            webhook_events=" ".join(submission.webhook.events) if submission.webhook else None,
            idempotency_key=once.name if once else None,
            request_hash=once.request_hash if once else None,
        )
        .on_conflict_do_nothing(index_elements=[renders.c.owner, renders.c.idempotency_key])
        .returning(renders.c.id)
    )
    if connection.execute(statement).first() is not None or once is None:
        return render_id
    before = connection.execute(
        select(renders.c.id, renders.c.request_hash).where(
            renders.c.owner == submission.owner, renders.c.idempotency_key == once.name
        )
    ).one()
    if before.request_hash != once.request_hash:
        raise AskedOtherwise(f"the idempotency key {once.name!r} came with another request before: render {before.id}")
    return str(before.id)


def _chunks(wanted: Iterable[Wanted | Spec], size: int) -> Iterator[list[Wanted]]:
    stream = (one if isinstance(one, Wanted) else Wanted(spec=one) for one in wanted)
    while chunk := list(islice(stream, size)):
        yield chunk
