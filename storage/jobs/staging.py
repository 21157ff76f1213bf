"""Staging: new jobs where only their submitter sees them, so that a long manifest holds no lock while it is read.

SQLite has one writer at a time, and a worker that cannot write for long loses its leases. So the rows of a large render
are gathered in a temporary table of its submitter's connection, and are accepted by one statement.

On PostgreSQL they are gathered in a file of the submitter's. Its transaction would be open for as long as a manifest is
read, and a temporary table outlives a transaction only where no pooler gives its connection to others. So the table is
filled in the transaction that accepts: all at once, and before that takes any lock.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import IO, Any

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

from storage.database.connection import Database
from storage.errors import BadSpecification
from storage.jobs.values import NewJob
from storage.spec.picture import write_labels

#: Rows per statement; a render of fewer is accepted without staging.
CHUNK = 1000

_named = text("custom_id IS NOT NULL")

staged = Table(
    # By another name than in versions that left it behind in connections of a pooler.
    "staged_jobs",
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
    Index("ix_staged_jobs_custom_id", "custom_id", unique=True, sqlite_where=_named, postgresql_where=_named),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


class Stage(ABC):
    """The rows of one render that is not accepted yet."""

    def __init__(self) -> None:
        #: Model → how many of its pictures there are.
        self.models: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.models.total()

    def fill(self, wanted: Iterable[NewJob]) -> None:
        """Stage jobs. Raises whatever `wanted` raises; BadSpecification for a duplicate custom_id, here or later."""
        for chunk in chunks(wanted):
            self._keep([self._row(one) for one in chunk])

    @abstractmethod
    def accepting(self) -> AbstractContextManager[Connection]:
        """Open the transaction that accepts, in which the table `staged` holds these rows and no others."""

    @abstractmethod
    def _keep(self, rows: list[dict[str, Any]]) -> None: ...

    def _row(self, one: NewJob) -> dict[str, Any]:
        index, ordinal = self.models.total(), self.models[one.spec.model]
        self.models[one.spec.model] += 1
        return {"index": index, "ordinal": ordinal, **row_of(one)}


class _StageInTable(Stage):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        with self._connection.begin():
            insert_named(self._connection, staged, rows)

    @contextmanager
    def accepting(self) -> Iterator[Connection]:
        self._connection.execution_options(farm_read=False)
        with self._connection.begin():
            yield self._connection


class _StageInFile(Stage):
    def __init__(self, database: Database, file: IO[str]) -> None:
        super().__init__()
        self._database = database
        self._file = file

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self._file.write(json.dumps(rows) + "\n")

    @contextmanager
    def accepting(self) -> Iterator[Connection]:
        self._file.seek(0)
        with self._database.write() as connection:
            staged.create(connection)
            for line in self._file:
                insert_named(connection, staged, json.loads(line))
            yield connection


@contextmanager
def stage(database: Database) -> Iterator[Stage]:
    """Open an empty stage; nothing is left of it at the end, nor when its process is killed."""
    if not database.url.startswith("sqlite"):
        with tempfile.TemporaryFile("w+", encoding="utf-8", prefix="farm-staged-") as file:
            yield _StageInFile(database, file)
        return
    with database.session() as connection:
        with connection.begin():
            staged.create(connection)
        try:
            yield _StageInTable(connection)
        finally:
            # Of the connection, which others get after us.
            with connection.begin():
                staged.drop(connection)


def row_of(one: NewJob) -> dict[str, Any]:
    """Return a job's columns."""
    spec, kind = one.spec, one.kind
    return {
        "model": spec.model,
        "batch_key": spec.batch_key() if kind is None else kind.batch_key,
        "seed": spec.seed,
        "spec": spec.canonical() if kind is None else kind.canonical(spec),
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
