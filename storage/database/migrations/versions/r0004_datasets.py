"""Names and labels of pictures, held renders, exports and schedules."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_STATES = "state IN ('queued', 'held', 'running', 'done', 'failed', 'cancelled')"


def upgrade() -> None:
    op.add_column("renders", sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("renders", sa.Column("purging", sa.Boolean, nullable=False, server_default=sa.false()))
    _add_to_jobs()
    # Deleting a render finds what is only its own.
    op.create_index("ix_faults_job_id", "faults", ["job_id"])
    op.create_index("ix_deliveries_render_id", "deliveries", ["render_id"])
    op.create_index("ix_api_batches_render_id", "api_batches", ["render_id"])
    named = sa.text("custom_id IS NOT NULL")
    op.create_index(
        *("ix_jobs_custom_id", "jobs", ["render_id", "custom_id"]),
        unique=True,
        sqlite_where=named,
        postgresql_where=named,
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("cron", sa.String(200), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("window", sa.String(11)),
        sa.Column("overlap", sa.String(6), nullable=False),
        sa.Column("catch_up", sa.String(4), nullable=False),
        sa.Column("seeds", sa.String(5), nullable=False),
        sa.Column("order", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("decided_to", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("owner", "name", name="uq_schedules_owner_name"),
    )
    op.create_table(
        "firings",
        sa.Column("schedule_id", sa.String(12), nullable=False),
        sa.Column("planned_at", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("render_id", sa.String(32)),
        sa.Column("note", sa.Text),
        sa.PrimaryKeyConstraint("schedule_id", "planned_at", name="pk_firings"),
    )
    op.create_index("ix_firings_render_id", "firings", ["render_id"])
    op.create_table(
        "exports",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("render_id", sa.String(32), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
        sa.UniqueConstraint("render_id", "format", "target", name="uq_exports_render_id_format_target"),
    )


def _add_to_jobs() -> None:
    """Two columns, and one more state. SQLite changes a table's check only by writing the table anew."""
    columns = [sa.Column("custom_id", sa.String(200)), sa.Column("labels", sa.Text)]
    name = op.f("ck_jobs_state")
    if op.get_bind().dialect.name == "postgresql":
        for column in columns:
            op.add_column("jobs", column)
        op.drop_constraint(name, "jobs", type_="check")
        op.create_check_constraint(name, "jobs", _STATES)
        return
    with op.batch_alter_table("jobs", recreate="always") as jobs:
        for column in columns:
            jobs.add_column(column)
        jobs.drop_constraint(name, type_="check")
        jobs.create_check_constraint(name, _STATES)
