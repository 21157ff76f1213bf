"""Which run of `farm-worker` a worker belongs to: two machines of one host name must not undo each other."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("workers", sa.Column("run", sa.String(100), nullable=False, server_default="unknown"))
