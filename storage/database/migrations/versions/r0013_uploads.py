"""Inputs by who stored them: they count against limits, and go when nothing names them any more."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("object", sa.String(71), nullable=False),
        sa.Column("key_id", sa.String(12), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("object", "key_id", "owner", name="pk_uploads"),
    )
    op.create_index("ix_uploads_key_id", "uploads", ["key_id"])
