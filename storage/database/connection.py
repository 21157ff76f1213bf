"""The connection to SQLite or PostgreSQL: transactions, the database's clock, errors in the farm's own words."""

import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Concatenate, LiteralString, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Double, Engine, ScalarSelect, create_engine, event, select
from sqlalchemy.exc import DataError, DBAPIError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry, NullPool
from sqlalchemy.sql.functions import GenericFunction

from storage.database.pooler import STATEMENT_POOLING, is_pooled, prepare_postgresql
from storage.errors import DatabaseBusy, DatabaseProblem, InvalidInput
from storage.settings import without_secrets

#: Serialisation failure, deadlock, lock timeout: the transaction did nothing and may be run again.
_RETRIED_SQLSTATES = {"40001", "40P01", "55P03"}
_TRIES = 6
_SQLITE_WAIT_SECONDS = 30.0
_LOCKED = "database is locked"
#: To PostgreSQL, of a process that serves many at once: enough for its few cores, and for two that are held for long.
CONNECTIONS = 8
#: A connection that was used so shortly before is taken without asking whether it still is one.
_SURELY_ALIVE_SECONDS = 0.1


class database_now(GenericFunction[float]):  # noqa: N801 - reads as the SQL function that it is
    """Seconds since 1970 by the database's own clock: leases are judged by it alone."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(database_now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    # unixepoch('subsec') would need SQLite 3.42; the Julian day of 1970-01-01T00:00 is 2440587.5.
    return "((julianday('now') - 2440587.5) * 86400.0)"


def this_moment() -> ScalarSelect[float]:
    """Return the database's clock as it stands at a statement's beginning, for comparisons that an index is to serve.

    PostgreSQL uses none where the clock is read again for each row: then what was made in a minute is looked for among
    all that was ever made.
    """
    return select(database_now()).scalar_subquery()


class Database:
    """One engine; safe to share between threads, never across a fork."""

    def __init__(self, url: str, *, connections: int = CONNECTIONS) -> None:
        """Prepare an engine; it connects on first use. Raises DatabaseProblem if the URL cannot be understood.

        Args:
            connections: to PostgreSQL, at most; whoever needs another one waits for it. 0: none is kept after its use.
        """
        self.url = url
        self.shown = without_secrets(url)
        try:
            self.engine = _make_engine(url, connections)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise DatabaseProblem(f"database {self.shown}: {_first_line(error)}") from None
        # SQLite has one writer. Threads queue here for it: none polls for the file's lock meanwhile, none holds a
        # connection that a reader could have.
        self._writer = threading.Lock() if url.startswith("sqlite") else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that changes nothing."""
        with self._translated(), self.engine.connect() as connection:
            yield connection.execution_options(farm_read=True)

    @contextmanager
    def ask(self) -> Iterator[Connection]:
        """Open a connection for questions that need not agree with each other: each is a transaction of its own.

        Of PostgreSQL's, one round trip instead of three, for there is no BEGIN and no ROLLBACK; behind a pooler, which
        keeps no settings for a session, and of SQLite's, as `read`. Rows are read at once: no `yield_per`.
        """
        with self._translated(), self.engine.connect() as connection:
            by_itself = self.has_functions and not is_pooled(connection)
            level = {"isolation_level": "AUTOCOMMIT"} if by_itself else {}
            yield connection.execution_options(farm_read=True, **level)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end, or leaves nothing behind."""
        with self._writer, self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Open one connection for several transactions (`connection.begin()`) that share SQLite's temporary tables.

        They lock nothing of the farm's own until `farm_read` is switched off.
        """
        with self._translated(), self.engine.connect() as connection:
            yield connection.execution_options(farm_read=True)

    @property
    def has_functions(self) -> bool:
        """Whether the migrations made functions that `call` can call."""
        return self.engine.dialect.name == "postgresql"

    def call(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        """Call a function of PostgreSQL's, a transaction of its own: one round trip, and no lock is held over another.

        Called again on deadlock or lock timeout. Behind SQLAlchemy's back, which would take as long as the rest of a
        claim. No settings but those of the function itself are in force behind a pooler.
        """
        return _tried(lambda: self._call(statement, parameters))

    def _call(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        dialect = self.engine.dialect
        with self._translated(), closing(self.engine.raw_connection()) as pooled:
            connection: Any = pooled.driver_connection
            try:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    return list(cursor.execute(statement, parameters).fetchall())
            except dialect.loaded_dbapi.Error as error:
                raise DBAPIError.instance(
                    statement, None, error, dialect.loaded_dbapi.Error, dialect=dialect
                ) from error
            finally:
                if connection.closed:
                    pooled.invalidate()
                else:
                    connection.autocommit = False

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            # Of JSON, "\\ud800" by itself is text to Python, and to nobody else.
            raise InvalidInput("text with half of a surrogate pair cannot be stored; leave it out") from error
        except PoolTimeout as error:
            raise DatabaseProblem(f"database {self.shown}: {_first_line(error)}") from error
        except DBAPIError as error:
            if _holds_nul(error):
                # Nothing is wrong with the database: whoever waited for it to come back would wait for ever.
                raise InvalidInput("text with the character NUL (U+0000) cannot be stored; leave it out") from error
            kind = DatabaseBusy if _is_transient(error) else DatabaseProblem
            # Without a statement there was no connection to send one over.
            remedy = "; check FARM_DATABASE_URL" if error.statement is None else ""
            if _LOCKED in str(error.orig):
                remedy = (
                    f": another process has been writing to it for {_SQLITE_WAIT_SECONDS:.0f} s; if one was stopped "
                    "(Ctrl-Z, a debugger), let it go on or end it"
                )
            elif "statement pooling" in str(error.orig):
                remedy = f": {STATEMENT_POOLING}"
            raise kind(f"database {self.shown}: {_first_line(error.orig or error)}{remedy}") from error


class HasDatabase(Protocol):
    database: Database


S = TypeVar("S", bound=HasDatabase)
P = ParamSpec("P")
R = TypeVar("R")


def transaction(work: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method one write transaction, run again from its beginning on deadlock or lock timeout."""

    @functools.wraps(work)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        def once() -> R:
            with self.database.write() as connection:
                return work(self, connection, *args, **kwargs)

        return _tried(once)

    return run


def _tried(work: Callable[[], R]) -> R:
    for attempt in range(_TRIES):
        try:
            return work()
        except DatabaseBusy:
            if attempt == _TRIES - 1:
                raise
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable: the last try returns or raises")


def _is_transient(error: DBAPIError) -> bool:
    if getattr(error.orig, "sqlstate", None) in _RETRIED_SQLSTATES:
        return True
    return isinstance(error, OperationalError) and _LOCKED in str(error.orig)


def _holds_nul(error: DBAPIError) -> bool:
    """Return whether PostgreSQL, or its driver, refused text for the one character that it cannot store."""
    untranslatable = getattr(error.orig, "sqlstate", None) == "22P05"  # within JSON
    return isinstance(error, DataError) and (untranslatable or "NUL (0x00)" in str(error.orig))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _make_engine(url: str, connections: int) -> Engine:
    if url.startswith("sqlite"):
        # How long the driver waits for a writer in another process; with WAL, readers need not wait.
        engine = create_engine(url, connect_args={"timeout": _SQLITE_WAIT_SECONDS, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if not url.startswith("postgresql"):
        raise ValueError("expected postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE")
    engine = create_engine(
        url,
        **_pool(connections),
        connect_args={
            "connect_timeout": 5,
            # A server or network that has gone without a word is noticed within half a minute, not after two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    prepare_postgresql(engine)
    event.listen(engine, "connect", _note_use)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", functools.partial(_replace_dead, engine))
    return engine


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _replace_dead(engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Replace a connection that died while idle (restart, failover), and its like, rather than hand it out.

    As `pool_pre_ping` does, which asks before every transaction: a round trip of each of a worker's claims.
    """
    if time.monotonic() - record.info.get("used", 0.0) < _SURELY_ALIVE_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _pool(connections: int) -> dict[str, Any]:
    if not connections:
        return {"poolclass": NullPool}
    # The one that was used last is surely alive.
    return {"pool_size": connections, "max_overflow": 0, "pool_use_lifo": True}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, below
    # A manifest of a million rows makes a log of half a gigabyte; it is truncated to this afterwards.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")
    # Unlike everything else, the change to WAL does not wait for the lock of a process opening the same file.
    deadline = time.monotonic() + _SQLITE_WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    # A deferred BEGIN that turns into a write fails at once with "database is locked", whatever the timeout.
    read_only = connection.get_execution_options().get("farm_read", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
