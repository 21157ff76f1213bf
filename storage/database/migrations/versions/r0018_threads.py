"""Jobs that are to be rendered by so many threads of a CPU, and workers by how many they render."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("threads", sa.Integer))
    op.add_column("workers", sa.Column("threads", sa.Integer))
