"""Staging: new jobs where only their submitter sees them, so that a long manifest holds no lock while it is read.

SQLite has one writer at a time, and a worker that cannot write for long loses its leases. So the rows of a large render
are gathered in a temporary table of its submitter's connection, and are accepted by one statement.

On PostgreSQL they are gathered in a file of the submitter's. Its transaction would be open for as long as a manifest is
read, and a temporary table outlives a transaction only where no pooler gives its connection to others. So the table is
filled in the transaction that accepts: all at once, and before that takes any lock.
"""

import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import IO, Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
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
from sqlalchemy.exc import IntegrityError

from storage.database.connection import Database
from storage.database.copy_text import copied_values, copy_in, copy_lines
from storage.errors import BadSpecification, InvalidInput
from storage.jobs.values import NewJob
from storage.spec.picture import write_labels

T = TypeVar("T")
_OF_A_JOB = ("model", "batch_key", "seed", "spec", "custom_id", "labels")
#: The columns of `staged`.
_Row = tuple[int, str, int, str, int, str, str | None, str | None]
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


_STAGED = tuple(column.name for column in staged.columns)
_NAME = _STAGED.index("custom_id")
_INSERT = "INSERT INTO {} ({}) VALUES ({})".format(  # noqa: S608 - names of our own
    staged.name, ", ".join(f'"{name}"' for name in _STAGED), ", ".join("?" * len(_STAGED))
)


class Stage(ABC):
    """The rows of one render that is not accepted yet."""

    def __init__(self) -> None:
        #: Model → how many of its pictures there are.
        self.models: Counter[str] = Counter()
        self.total = 0

    def fill(self, wanted: Iterable[NewJob]) -> None:
        """Stage jobs. Raises whatever `wanted` raises; BadSpecification for a duplicate custom_id, here or later."""
        # A job becomes its row before the next one is made: of a thousand that are kept, Python looks for garbage.
        for rows in chunks(map(self._row, wanted)):
            self._keep(rows)

    @abstractmethod
    def accepting(self) -> AbstractContextManager[Connection]:
        """Open the transaction that accepts, in which the table `staged` holds these rows and no others."""

    @abstractmethod
    def _keep(self, rows: list[_Row]) -> None: ...

    def _row(self, one: NewJob) -> _Row:
        """Return the columns of `staged`."""
        index, model = self.total, one.spec.model
        ordinal = self.models[model]
        self.total, self.models[model] = index + 1, ordinal + 1
        _, batch_key, seed, spec, name, labels = values_of(one)
        return index, model, ordinal, batch_key, seed, spec, name, labels


class _StageInTable(Stage):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def _keep(self, rows: list[_Row]) -> None:
        # Not by SQLAlchemy's INSERT, which makes more of a row's values than the database does.
        with self._connection.begin(), _each_name_once(self._connection, staged, _named_in(rows)):
            self._connection.exec_driver_sql(_INSERT, rows)

    @contextmanager
    def accepting(self) -> Iterator[Connection]:
        self._connection.execution_options(farm_read=False)
        with self._connection.begin():
            yield self._connection


class _StageInFile(Stage):
    """Rows as the server reads them, so that nothing is left to do to them when it accepts."""

    def __init__(self, database: Database, file: IO[bytes]) -> None:
        super().__init__()
        self._database = database
        self._file = file
        #: Of each chunk: its bytes.
        self._chunks: list[int] = []

    def _keep(self, rows: list[_Row]) -> None:
        lines = copy_lines(rows)
        if "\0" in lines:
            raise InvalidInput("text with the character NUL (U+0000) cannot be stored; leave it out")
        self._chunks.append(self._file.write(lines.encode()))

    @contextmanager
    def accepting(self) -> Iterator[Connection]:
        self._file.seek(0)
        with self._database.write() as connection:
            staged.create(connection)
            for size in self._chunks:
                _copy_chunk(connection, self._file.read(size).decode())
            yield connection


@contextmanager
def stage(database: Database) -> Iterator[Stage]:
    """Open an empty stage; nothing is left of it at the end, nor when its process is killed."""
    if not database.url.startswith("sqlite"):
        with tempfile.TemporaryFile("w+b", prefix="farm-staged-") as file:
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


def values_of(one: NewJob) -> tuple[str, str, int, str, str | None, str | None]:
    """Return a job's columns: model, batch_key, seed, spec, custom_id, labels."""
    spec, kind, labels = one.spec, one.kind, one.labels
    written = spec.canonical() if kind is None else kind.canonical(spec)
    return spec.model, _key(one), spec.seed, written, one.custom_id, write_labels(labels) if labels else None


def row_of(one: NewJob) -> dict[str, Any]:
    """Return a job's columns by name."""
    return dict(zip(_OF_A_JOB, values_of(one), strict=True))


def _named_in(rows: Iterable[_Row]) -> list[tuple[str | None, int]]:
    return [(row[_NAME], row[0]) for row in rows]  # type: ignore[misc]  # of the names alone


def _key(one: NewJob) -> str:
    """Return what jobs have in common that are claimed together."""
    if one.by_slots:
        return one.spec.loop_key() if one.kind is None else one.kind.loop_key
    return one.spec.batch_key() if one.kind is None else one.kind.batch_key


def chunks(wanted: Iterable[T]) -> Iterator[list[T]]:
    stream = iter(wanted)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def insert_named(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows of one render. Raises BadSpecification for a duplicate custom_id."""
    named = [(row["custom_id"], row["index"]) for row in rows]
    with _each_name_once(connection, table, named, table.c.render_id == rows[0]["render_id"]):
        connection.execute(insert(table), rows)


@contextmanager
def _each_name_once(
    connection: Connection,
    table: Table,
    named: Sequence[tuple[str | None, int]],
    among: ColumnElement[bool] | None = None,
) -> Iterator[None]:
    if all(name is None for name, _ in named):
        yield
        return
    try:
        with connection.begin_nested():
            yield
    except IntegrityError:
        _refuse_twice(connection, table, named, among)
        raise


def _copy_chunk(connection: Connection, lines: str) -> None:
    """The same by COPY, into the stage of PostgreSQL."""
    try:
        with connection.begin_nested():
            copy_in(connection, staged, _STAGED, lines)
    except IntegrityError:
        rows = [copied_values(line) for line in lines.split("\n")[:-1]]
        _refuse_twice(connection, staged, [(row[_NAME], int(row[0] or 0)) for row in rows])
        raise


def _refuse_twice(
    connection: Connection,
    table: Table,
    named: Iterable[tuple[str | None, int]],
    among: ColumnElement[bool] | None = None,
) -> None:
    """Raise BadSpecification for the first picture whose name one before it has, here or in the table."""
    new = [(name, index) for name, index in named if name is not None]
    same = select(table.c.custom_id, table.c.index).where(table.c.custom_id.in_([name for name, _ in new]))
    if among is not None:
        same = same.where(among)
    before = {row.custom_id: row._mapping["index"] for row in connection.execute(same)}
    for name, index in new:
        first = before.setdefault(name, index)
        if index != first:
            raise BadSpecification(f"duplicate custom_id {name!r}, for pictures {first + 1} and {index + 1}") from None
