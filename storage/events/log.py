"""The events of watched renders, numbered without gaps, for clients that follow them.

A render's numbers are assigned while its row is locked. So a client that has seen number n has seen all before it, and
reading on from there delivers every event once and in order, even after a dropped connection.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_, update

from storage.database.connection import Database, database_now
from storage.database.tables import events, renders
from storage.events.webhooks import PREDICTION, note_deliveries
from storage.rules.ids import job_id
from storage.rules.times import rfc3339

#: Databases take only so many values in a statement.
_AT_ONCE = 500


class EventKind(StrEnum):
    """What happened to a render, or to a picture of it."""

    JOB_STARTED = "job.started"
    JOB_DONE = "job.done"
    JOB_FAILED = "job.failed"
    #: Back in the queue, or held with its render: its worker stopped, or it may go well next time.
    JOB_QUEUED = "job.queued"
    JOB_CANCELLED = "job.cancelled"
    RENDER_CANCELLED = "render.cancelled"
    #: Taken out of the queue, and let into it again.
    RENDER_HELD = "render.held"
    RENDER_RELEASED = "render.released"
    RENDER_RETRIED = "render.retried"
    RENDER_FINISHED = "render.finished"


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """An event to record."""

    render_id: str
    kind: EventKind
    #: The picture that it happened to; None: the render as a whole.
    index: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event as it was recorded."""

    seq: int
    at: float
    kind: EventKind
    index: int | None
    data: Mapping[str, Any]


def record_events(connection: Connection, happened: Iterable[NewEvent]) -> None:
    """Record events of watched renders, in the transaction in which they happen; jobs are locked already."""
    by_render: defaultdict[str, list[NewEvent]] = defaultdict(list)
    for one in happened:
        by_render[one.render_id].append(one)
    # In the order of ids, as everywhere where renders are locked.
    for render_id, told in sorted(by_render.items()):
        row = connection.execute(
            update(renders)
            .where(renders.c.id == render_id, renders.c.watched)
            .values(events=renders.c.events + len(told))
            .returning(
                *(renders.c.events, renders.c.owner, renders.c.webhook_url, renders.c.webhook_events),
                *(renders.c.webhook_form, renders.c.api_url),
                database_now().label("at"),
            )
        ).first()
        if row is None:
            continue
        first = row.events - len(told) + 1
        connection.execute(
            insert(events),
            [
                {
                    "render_id": render_id,
                    "seq": seq,
                    "at": row.at,
                    "kind": one.kind,
                    "index": one.index,
                    "data": json.dumps(one.data, ensure_ascii=False),
                }
                for seq, one in enumerate(told, start=first)
            ],
        )
        if row.webhook_url:
            note_deliveries(
                connection,
                [_message(row, one, seq) for seq, one in enumerate(told, start=first) if _is_wanted(row, one)],
            )


def event_fields(render_id: str, index: int | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event tells, by the names that the JSON forms of a render and a job have for it.

    Of a picture: its `id`, `index` and `render`; of a render as a whole: its `id`.
    """
    times = {f"{name.removesuffix('_at')}_time": rfc3339(data[name]) for name in data if name.endswith("_at")}
    if index is None:
        return {"id": render_id, **data, **times}
    return {"id": job_id(render_id, index), "render": render_id, "index": index, **data, **times}


def _is_wanted(row: Row[Any], one: NewEvent) -> bool:
    if row.webhook_form == PREDICTION and one.kind is EventKind.JOB_STARTED and one.index:
        return False  # a prediction starts once, with its first picture
    return one.kind in row.webhook_events.split()


def _message(row: Row[Any], one: NewEvent, seq: int) -> dict[str, Any]:
    return {
        "render_id": one.render_id,
        "owner": row.owner,
        "url": row.webhook_url,
        "kind": one.kind,
        "form": row.webhook_form,
        "api_url": row.api_url,
        "data": {"seq": seq, **event_fields(one.render_id, one.index, one.data)},
    }


class EventLog:
    """Reads events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, render_id: str, seq: int, *, limit: int = 500) -> list[Event]:
        """List a render's next events after number `seq`, in order."""
        statement = (
            select(events)
            .where(events.c.render_id == render_id, events.c.seq > seq)
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self._database.ask() as connection:
            return [_event(row) for row in connection.execute(statement)]

    def last(self, render_id: str) -> int | None:
        """Return the number of a render's last event, 0 before the first; None if its events are not recorded."""
        statement = select(renders.c.events).where(renders.c.id == render_id, renders.c.watched)
        with self._database.ask() as connection:
            found: int | None = connection.execute(statement).scalar()
        return found

    def these(self, numbers: Iterable[tuple[str, int]]) -> dict[str, list[Event]]:
        """Return these events, by render and in order: one statement for those of many renders."""
        found: defaultdict[str, list[Event]] = defaultdict(list)
        left = sorted(numbers)
        with self._database.ask() as connection:
            while left:
                some, left = left[:_AT_ONCE], left[_AT_ONCE:]
                statement = select(events).where(tuple_(events.c.render_id, events.c.seq).in_(some))
                for row in connection.execute(statement.order_by(events.c.render_id, events.c.seq)):
                    found[row.render_id].append(_event(row))
        return found


def _event(row: Row[Any]) -> Event:
    return Event(
        seq=row.seq, at=row.at, kind=EventKind(row.kind), index=row._mapping["index"], data=json.loads(row.data)
    )
