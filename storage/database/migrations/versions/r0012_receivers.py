"""Webhooks by receiver: whose messages wait, and which receivers failed the last time."""

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_AT_ONCE = 1000


def upgrade() -> None:
    # Of messages that wait no longer it stays unknown; whoever sends one again sets it.
    op.add_column("deliveries", sa.Column("receiver", sa.Text, nullable=False, server_default="unknown"))
    _name_receivers()
    op.drop_index("ix_deliveries_due", "deliveries")
    pending = sa.text("state = 'pending'")
    columns = ["receiver", "next_at"]
    op.create_index("ix_deliveries_due", "deliveries", columns, sqlite_where=pending, postgresql_where=pending)
    op.create_table(
        "failing_receivers",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("failed_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_failing_receivers"),
    )


def _name_receivers() -> None:
    deliveries = sa.table("deliveries", *map(sa.column, ("id", "owner", "url", "state", "receiver")))
    columns = deliveries.c
    this = sa.update(deliveries).where(columns.id == sa.bindparam("this")).values(receiver=sa.bindparam("name"))
    waiting = sa.select(columns.id, columns.owner, columns.url).where(columns.state == "pending").order_by(columns.id)
    last = ""
    while rows := op.get_bind().execute(waiting.where(columns.id > last).limit(_AT_ONCE)).all():
        op.get_bind().execute(this, [{"this": row.id, "name": _receiver(row.owner, row.url)} for row in rows])
        last = rows[-1].id


def _receiver(owner: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        host, port = "", 0
    return f"{owner} {host[:255]}:{port}"
