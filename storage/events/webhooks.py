"""Webhooks: messages to receivers, recorded in the transaction that they report, and the state of their delivery."""

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, literal_column, select, update

from storage.access.signing import SigningSecrets
from storage.database.connection import Database, database_now, transaction
from storage.database.webhook_tables import deliveries
from storage.errors import NotFound
from storage.events.receivers import note_failing, note_well, receiver_of
from storage.rules.times import rfc3339

#: Standard Webhooks' schedule, in seconds after each failed attempt; after the last one it is given up.
RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
#: The form of a message whose body is made when it is sent: Replicate's prediction, as it stands then.
PREDICTION = "prediction"
#: In the statement itself, so that the index of what waits serves it.
_PENDING: ColumnElement[str] = literal_column("'pending'")
#: Longer than an attempt may take: then another process may try.
_LEASE_SECONDS = 120.0


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    #: Given up after the last attempt.
    FAILED = "failed"
    #: The receiver answered 410 Gone.
    GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One message to one receiver. Its id is the same in every attempt."""

    id: str
    render_id: str
    owner: str
    url: str
    kind: str
    body: str
    state: DeliveryState
    attempt: int
    #: When it is tried next, seconds since 1970.
    next_at: float
    answer: str | None
    created_at: float
    delivered_at: float | None
    #: Whose it is and where it goes (`storage.events.receivers`).
    receiver: str
    #: How the body is to be told (`scheduler.results.webhook_payloads`); None: as it is, with more about a picture.
    form: str | None = None
    #: How the submitter of its render reaches the API.
    api_url: str | None = None


def note_deliveries(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Write messages down, in the transaction of what they tell of.

    Each has `render_id`, `owner`, `url`, `kind`, `form`, `api_url` and `data`.
    """
    now = None
    noted = []
    for row in rows:
        now = now or connection.execute(select(database_now())).scalar_one()
        noted.append(
            {
                "id": f"msg_{secrets.token_hex(12)}",
                **{name: row[name] for name in ("render_id", "owner", "url", "kind", "form", "api_url")},
                "body": json.dumps({"type": row["kind"], "timestamp": rfc3339(now), "data": row["data"]}),
                "state": DeliveryState.PENDING,
                "attempt": 0,
                "next_at": now,
                "created_at": now,
                "receiver": receiver_of(row["owner"], row["url"]),
            }
        )
    if noted:
        connection.execute(insert(deliveries), noted)


class Webhooks:
    """Messages that wait to be delivered, and the secrets that they are signed with."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def secret(self, owner: str) -> str:
        """Return what an owner's messages are signed with, `whsec_…`."""
        return "whsec_" + SigningSecrets(self.database).get(f"webhook:{owner}")

    @transaction
    def take_next(self, connection: Connection, receivers: Iterable[str]) -> Sequence[Delivery]:
        """Take the next due message for each receiver, to try it here: no other process does so for two minutes.

        None for one whose messages other processes have taken meanwhile.
        """
        ids: list[str] = []
        for receiver in receivers:
            due = (
                select(deliveries.c.id)
                .where(
                    deliveries.c.state == _PENDING,
                    deliveries.c.receiver == receiver,
                    deliveries.c.next_at <= database_now(),
                )
                .order_by(deliveries.c.next_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            ids += connection.execute(due).scalars()
        taken = connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(ids))
            .values(attempt=deliveries.c.attempt + 1, next_at=database_now() + _LEASE_SECONDS)
            .returning(deliveries)
        ).all()
        return [_delivery(row) for row in taken]

    @transaction
    def delivered(self, connection: Connection, delivery: Delivery, answer: str, *, slowly: bool = False) -> None:
        """Record that a message has arrived; a receiver that took long is tried after others from then on."""
        connection.execute(
            _this(delivery).values(state=DeliveryState.DELIVERED, answer=answer, delivered_at=database_now())
        )
        if slowly:
            note_failing(connection, delivery.receiver)
        else:
            note_well(connection, delivery.receiver)

    @transaction
    def failed(self, connection: Connection, delivery: Delivery, answer: str, *, after: float | None) -> None:
        """Record a failed attempt; the next one follows after so many seconds, None: there is none.

        The receiver's messages are tried after those of others from then on.
        """
        if after is None:
            connection.execute(_this(delivery).values(state=DeliveryState.FAILED, answer=answer))
        else:
            connection.execute(_this(delivery).values(next_at=database_now() + after, answer=answer))
        note_failing(connection, delivery.receiver)

    @transaction
    def gone(self, connection: Connection, delivery: Delivery) -> None:
        """Record that a receiver no longer exists: nothing that waits for it is tried again."""
        connection.execute(
            update(deliveries)
            .where(
                deliveries.c.owner == delivery.owner,
                deliveries.c.url == delivery.url,
                deliveries.c.state == DeliveryState.PENDING,
            )
            .values(state=DeliveryState.GONE, answer="410 Gone")
        )

    def all(
        self, *, owner: str | None = None, state: DeliveryState | None = None, limit: int = 100
    ) -> Sequence[Delivery]:
        """List the newest messages, newest first."""
        statement = select(deliveries).order_by(deliveries.c.created_at.desc(), deliveries.c.id).limit(limit)
        if owner is not None:
            statement = statement.where(deliveries.c.owner == owner)
        if state is not None:
            statement = statement.where(deliveries.c.state == state)
        with self.database.read() as connection:
            return [_delivery(row) for row in connection.execute(statement)]

    def counts(self, *, within_seconds: float) -> dict[str, int]:
        """Count the messages of this time, by state."""
        statement = (
            select(deliveries.c.state, func.count().label("n"))
            .where(deliveries.c.created_at > database_now() - within_seconds)
            .group_by(deliveries.c.state)
        )
        with self.database.read() as connection:
            return {row.state: row.n for row in connection.execute(statement)}

    @transaction
    def replay(self, connection: Connection, delivery_id: str) -> None:
        """Send a message again, under its id, whatever became of it. Raises NotFound."""
        this = deliveries.c.id == delivery_id
        found = connection.execute(select(deliveries.c.owner, deliveries.c.url).where(this)).first()
        if found is None:
            raise NotFound(f"no webhook message with id {delivery_id[:40]!r}; `farm webhooks list` lists them")
        receiver = receiver_of(found.owner, found.url)
        connection.execute(
            update(deliveries)
            .where(this)
            .values(state=DeliveryState.PENDING, attempt=0, next_at=database_now(), receiver=receiver)
        )


def _this(delivery: Delivery) -> Any:
    return update(deliveries).where(deliveries.c.id == delivery.id, deliveries.c.attempt == delivery.attempt)


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(**row._asdict() | {"state": DeliveryState(row.state)})
