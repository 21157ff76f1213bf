"""PostgreSQL's settings for every transaction, also behind a pooler such as PgBouncer.

A pooler in transaction mode gives each transaction whichever of the server's connections is free. So nothing of a
session may be counted on from one transaction to the next: no settings, prepared statements, temporary tables or locks.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event, text

from storage.errors import DatabaseProblem

#: Not in the connection's `options`, which PgBouncer refuses.
_SETTINGS = {"lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}
_POOLED = "pooled"
#: Whatever a transaction's first statement is read by: a cursor that nobody reads would set nothing.
_AT_ONCE = {"yield_per": None, "stream_results": False}
#: What to do about a pooler that knows no transactions.
STATEMENT_POOLING = (
    "the pooler in front of it pools statements, and a farm needs whole transactions; "
    "set pool_mode = transaction (or session) in PgBouncer"
)


def prepare_postgresql(engine: Engine) -> None:
    """Have the settings in force in every transaction, for the session where there is one."""
    event.listen(engine, "connect", _connected)
    event.listen(engine, "begin", _begun)


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler stands between this connection and the server."""
    return bool(connection.info.get(_POOLED))


def refuse_statement_pooling(connection: Connection, shown: str) -> None:
    """Raise DatabaseProblem if a pooler lets go of the server's connection within a transaction."""
    if not is_pooled(connection):
        return
    which = text("SELECT pg_backend_pid(), transaction_timestamp()")
    seen = {tuple(connection.execute(which).one()) for _ in range(3)}
    if len(seen) > 1:
        raise DatabaseProblem(f"database {shown}: {STATEMENT_POOLING}")


def _connected(connection: Any, record: Any) -> None:
    with connection.cursor() as cursor:
        # A pooler cannot know whose process it will be, and makes a number up.
        told: int = connection.info.backend_pid
        pooled = cursor.execute("SELECT pg_backend_pid()").fetchone()[0] != told
        if pooled:
            connection.prepare_threshold = None
        else:
            cursor.execute(_set(local=False))
    connection.commit()
    record.info[_POOLED] = pooled


def _begun(connection: Connection) -> None:
    if is_pooled(connection):
        connection.exec_driver_sql(_set(local=True), execution_options=_AT_ONCE)


def _set(*, local: bool) -> str:
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', {local})" for name, value in _SETTINGS.items())
