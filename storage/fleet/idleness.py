"""How much of their time workers' devices rendered nothing, from the batches that they recorded."""

from sqlalchemy import and_, case, func, select

from storage.database.connection import Database, this_moment
from storage.database.tables import batches, workers


def idle_shares(database: Database, *, within_seconds: float) -> dict[str, float]:
    """Return, by worker, for which share (0…1) of this time, or of that since it started, its device rendered nothing.

    A batch counts when it is recorded; loading a model, and waiting for the store, are idle time of the device.
    """
    now = this_moment()
    # Of a worker that has just started, its whole life; a second, so that nothing is divided by nothing.
    begun = now - within_seconds
    since = case((workers.c.started_at > begun, workers.c.started_at), else_=begun)
    span = case((now - since > 1.0, now - since), else_=1.0)
    lately = and_(batches.c.worker == workers.c.name, batches.c.finished_at > since)
    busy = func.coalesce(func.sum(batches.c.render_seconds), 0.0)
    statement = (
        select(workers.c.name, busy.label("busy"), span.label("span"))
        .outerjoin(batches, lately)
        .group_by(workers.c.name, workers.c.started_at)
    )
    with database.read() as connection:
        return {row.name: min(1.0, max(0.0, 1.0 - row.busy / row.span)) for row in connection.execute(statement)}
