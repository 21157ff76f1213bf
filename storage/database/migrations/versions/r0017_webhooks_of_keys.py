"""Keys have webhooks; messages know in which form they are told and how the API is reached; settings are noted."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("keys", sa.Column("webhook_url", sa.Text))
    op.add_column("keys", sa.Column("webhook_events", sa.Text))
    op.add_column("renders", sa.Column("webhook_form", sa.String(20)))
    op.add_column("renders", sa.Column("api_url", sa.Text))
    op.add_column("deliveries", sa.Column("form", sa.String(20)))
    op.add_column("deliveries", sa.Column("api_url", sa.Text))
    op.create_table(
        "noted_settings",
        sa.Column("process", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("noted_at", sa.Double, nullable=False),
    )
