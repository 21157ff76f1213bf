"""The names of the code: fair-share rounds (until now `turn`), orphaned pictures (until now `leftovers`)."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Both databases rename a column in place; Alembic would write SQLite's table anew.
    op.execute("ALTER TABLE jobs RENAME COLUMN turn TO round")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX ix_jobs_turns RENAME TO ix_jobs_rounds")
    else:
        op.drop_index("ix_jobs_turns", "jobs")
        queued = sa.text("state = 'queued'")
        op.create_index("ix_jobs_rounds", "jobs", ["model", "priority", "owner", "round"], sqlite_where=queued)
    op.create_table(
        "orphans",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=False, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_orphans"),
    )
    op.execute("INSERT INTO orphans (job_id, due_at) SELECT job_id, due_at FROM leftovers")
    op.drop_table("leftovers")
    op.create_index("ix_orphans_due_at", "orphans", ["due_at"])
