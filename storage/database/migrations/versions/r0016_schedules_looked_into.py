"""Schedules that fire once, have limits and are edited; firings that say how much they were; renders with times."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    # SQLite changes a column only by writing the table anew.
    with op.batch_alter_table("schedules") as schedules:
        schedules.alter_column("cron", existing_type=sa.String(200), nullable=True)
        schedules.add_column(sa.Column("at", sa.Double))
        schedules.add_column(sa.Column("limits", sa.Text))
        schedules.add_column(sa.Column("version", sa.Integer, nullable=False, server_default="0"))
    op.add_column("firings", sa.Column("pictures", sa.Integer))
    op.add_column("firings", sa.Column("device_seconds", sa.Double))
    op.add_column("renders", sa.Column("not_before", sa.Double))
    op.add_column("renders", sa.Column("window", sa.String(11)))
    op.add_column("renders", sa.Column("timezone", sa.String(64)))
    op.add_column("renders", sa.Column("window_open", sa.Boolean))
    timed = sa.text("timezone IS NOT NULL AND finished_at IS NULL")
    op.create_index("ix_renders_timed", "renders", ["timezone"], sqlite_where=timed, postgresql_where=timed)
