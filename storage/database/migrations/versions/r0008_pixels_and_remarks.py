"""A hash of each picture's pixels, by which duplicates are found, and the worker's remarks on it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pixels_sha256", sa.String(64)))
    op.add_column("jobs", sa.Column("remarks", sa.Text))
