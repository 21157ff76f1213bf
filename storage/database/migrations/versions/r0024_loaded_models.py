"""Workers tell which models they hold in memory, beside the one that they render with."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("workers", sa.Column("loaded", sa.Text, nullable=False, server_default="[]"))
