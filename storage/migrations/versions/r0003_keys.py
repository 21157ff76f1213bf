"""API keys, and requests that are made twice."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("renders", sa.Column("idempotency_key", sa.String(255)))
    op.add_column("renders", sa.Column("request_hash", sa.String(64)))
    op.add_column("renders", sa.Column("key_id", sa.String(12)))
    op.create_index("ix_renders_idempotency_key", "renders", ["owner", "idempotency_key"], unique=True)
    op.create_index("ix_renders_owner", "renders", ["owner", "created_at"])
    op.create_index("ix_renders_key_id", "renders", ["key_id", "created_at"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("role", sa.String(6), nullable=False),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
    )
