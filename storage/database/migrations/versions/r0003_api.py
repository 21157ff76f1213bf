"""API keys, requests that are made twice, events, webhooks and batch files."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("renders", sa.Column("idempotency_key", sa.String(255)))
    op.add_column("renders", sa.Column("request_hash", sa.String(64)))
    op.add_column("renders", sa.Column("key_id", sa.String(12)))
    op.add_column("renders", sa.Column("webhook_url", sa.Text))
    op.add_column("renders", sa.Column("webhook_events", sa.Text))
    op.add_column("renders", sa.Column("watched", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("renders", sa.Column("events", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("watched", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("workers", sa.Column("jobs", sa.Text, nullable=False, server_default="[]"))
    op.add_column("workers", sa.Column("step", sa.Integer, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("steps", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_renders_idempotency_key", "renders", ["owner", "idempotency_key"], unique=True)
    op.create_index("ix_batches_finished_at", "batches", ["finished_at"])
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
    op.create_table(
        "events",
        sa.Column("render_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("index", sa.Integer),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("render_id", "seq", name="pk_events"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("render_id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.String(9), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("delivered_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
    )
    pending = sa.text("state = 'pending'")
    op.create_index("ix_deliveries_due", "deliveries", ["next_at"], sqlite_where=pending, postgresql_where=pending)
    op.create_index("ix_deliveries_owner", "deliveries", ["owner", "created_at"])
    op.create_table(
        "signing_secrets",
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_signing_secrets"),
    )
    op.create_table(
        "api_files",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_files"),
    )
    op.create_table(
        "api_batches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(32), nullable=False),
        sa.Column("render_id", sa.String(32), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("lines", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_batches"),
    )
    op.create_index("ix_api_batches_owner", "api_batches", ["owner", "created_at"])
