"""Indexes for what is looked at again and again, however much was made before."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    _index("ix_jobs_held", "jobs", ["render_id"], "state = 'held'")
    _index("ix_renders_unfinished", "renders", ["key_id"], "finished_at IS NULL")


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
