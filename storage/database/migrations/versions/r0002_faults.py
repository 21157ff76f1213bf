"""Faults, quarantines, memory limits and leftovers; what jobs, batches and workers tell of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Added in place on both databases: a table of millions of jobs is not written anew.
    op.add_column("jobs", sa.Column("fault", sa.String(20)))
    op.add_column("jobs", sa.Column("suspect", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("elsewhere_until", sa.Double))
    op.add_column("batches", sa.Column("model", sa.String(63)))
    op.add_column("workers", sa.Column("batch", sa.Integer, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("rate", sa.Double, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("trouble", sa.Text))
    op.create_index("ix_batches_worker", "batches", ["worker", "finished_at"])
    op.create_table(
        "faults",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("fault", sa.String(20), nullable=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("model", sa.String(63)),
        sa.Column("job_id", sa.BigInteger),
        sa.Column("attempt", sa.Integer),
        sa.Column("incident", sa.String(32), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_faults"),
    )
    op.create_index("ix_faults_at", "faults", ["at"])
    op.create_index("ix_faults_worker", "faults", ["worker", "at"])
    op.create_table(
        "quarantines",
        sa.Column("worker", sa.String(128), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("worker", "model", name="pk_quarantines"),
    )
    op.create_table(
        "memory_limits",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("device_name", sa.String(128), nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("frugal", sa.Boolean, nullable=False),
        sa.Column("learned_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "width", "height", "device_name", name="pk_memory_limits"),
    )
    op.create_table(
        "leftovers",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=False, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_leftovers"),
    )
    op.create_index("ix_leftovers_due_at", "leftovers", ["due_at"])
