"""Indexes and sums for what is looked at again and again, however much was made before."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    _index("ix_jobs_held", "jobs", ["render_id"], "state = 'held'")
    _index("ix_renders_unfinished", "renders", ["key_id"], "finished_at IS NULL")
    _add_key_usage()
    op.add_column("orphans", sa.Column("marked_until", sa.Double))


def _add_key_usage() -> None:
    """Keys keep what they have used up today."""
    op.create_table(
        "key_usage",
        sa.Column("key_id", sa.String(12), nullable=False),
        sa.Column("minute", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("pictures", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "minute", name="pk_key_usage"),
    )
    renders = sa.table("renders", *map(sa.column, ("key_id", "created_at", "total")))
    minute = sa.cast(sa.func.floor(renders.c.created_at / 60), sa.Integer)
    if op.get_bind().dialect.name == "sqlite":
        minute = sa.cast(renders.c.created_at / 60, sa.Integer)
    today = renders.c.key_id.is_not(None) & (renders.c.created_at > time.time() - 86400)
    used = (
        sa.select(renders.c.key_id, minute, sa.func.sum(renders.c.total))
        .where(today)
        .group_by(renders.c.key_id, minute)
    )
    usage = sa.table("key_usage", *map(sa.column, ("key_id", "minute", "pictures")))
    op.get_bind().execute(usage.insert().from_select(["key_id", "minute", "pictures"], used))


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
