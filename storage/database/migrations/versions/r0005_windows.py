"""Renders of schedules follow their windows when these open and close, and people in between."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("firings", sa.Column("window_open", sa.Boolean))
