"""Renders that a client of the web UI waits for, which its `interrupt` may end."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("renders", sa.Column("waited_until", sa.Double))
