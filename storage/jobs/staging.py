"""Staging: new jobs in a temporary table, so that a long manifest holds no lock while it is read.

SQLite has one writer at a time, and a worker that cannot write for long loses its leases. So the rows of a large render
are gathered where only their submitter sees them, and are accepted by one statement.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from storage.errors import BadSpecification
from storage.jobs.values import NewJob
from storage.spec.picture import write_labels

#: Rows per statement; a render of fewer is accepted without staging.
CHUNK = 1000

_named = text("custom_id IS NOT NULL")

staged = Table(
    "staged",
    MetaData(),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("model", String(63), nullable=False),
    # Its number among those of its model.
    Column("ordinal", Integer, nullable=False),
    Column("batch_key", String(32), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("custom_id", String(200)),
    Column("labels", Text),
    Index("ix_staged_custom_id", "custom_id", unique=True, sqlite_where=_named, postgresql_where=_named),
    prefixes=["TEMPORARY"],
)


class Stage:
    """The rows of one render that is not accepted yet."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        #: Model → how many of its pictures there are.
        self.models: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.models.total()

    def fill(self, wanted: Iterable[NewJob]) -> None:
        """Stage jobs. Raises BadSpecification for a duplicate custom_id, and whatever `wanted` raises."""
        for chunk in chunks(wanted):
            with self._connection.begin():
                insert_named(self._connection, staged, [self._row(one) for one in chunk])

    def _row(self, one: NewJob) -> dict[str, Any]:
        index, ordinal = self.models.total(), self.models[one.spec.model]
        self.models[one.spec.model] += 1
        return {"index": index, "ordinal": ordinal, **row_of(one)}


@contextmanager
def stage(connection: Connection) -> Iterator[Stage]:
    """Open an empty stage over a connection that is in no transaction; it is dropped at the end."""
    with connection.begin():
        staged.create(connection)
    try:
        yield Stage(connection)
    finally:
        # Of the connection, which others get after us.
        with connection.begin():
            staged.drop(connection)


def row_of(one: NewJob) -> dict[str, Any]:
    """Return a job's columns."""
    return {
        "model": one.spec.model,
        "batch_key": one.spec.batch_key(),
        "seed": one.spec.seed,
        "spec": one.spec.canonical(),
        "custom_id": one.custom_id,
        "labels": write_labels(one.labels) if one.labels else None,
    }


def chunks(wanted: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    stream = iter(wanted)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def insert_named(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows of one render. Raises BadSpecification for a duplicate custom_id."""
    named = {row["custom_id"] for row in rows if row["custom_id"] is not None}
    if not named:
        _insert(connection, table, rows)
        return
    try:
        with connection.begin_nested():
            _insert(connection, table, rows)
    except IntegrityError:
        same = select(table.c.custom_id, table.c.index).where(table.c.custom_id.in_(named))
        if "render_id" in table.c:
            same = same.where(table.c.render_id == rows[0]["render_id"])
        before = {row.custom_id: row._mapping["index"] for row in connection.execute(same)}
        for row in rows:
            index = before.setdefault(row["custom_id"], row["index"])
            if row["custom_id"] is not None and index != row["index"]:
                raise BadSpecification(
                    f"duplicate custom_id {row['custom_id']!r}, for pictures {index + 1} and {row['index'] + 1}"
                ) from None
        raise


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if table is staged and connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    else:
        connection.execute(insert(table), rows)


def _copy(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert by COPY, six times as fast as INSERT. SQLAlchemy supports neither it nor its errors."""
    from psycopg import Error  # of the extra `postgresql`

    quoted = connection.dialect.identifier_preparer
    columns = ", ".join(quoted.quote(name) for name in rows[0])
    statement = f"COPY {quoted.format_table(table)} ({columns}) FROM STDIN"
    cursor: Any = connection.connection.cursor()
    try:
        with cursor, cursor.copy(statement) as copying:
            for row in rows:
                copying.write_row([*row.values()])
    except Error as error:
        raise DBAPIError.instance(statement, None, error, Error) from error
