"""Uploads that are being deleted are marked: no transaction stays open while an object goes."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("uploads", sa.Column("marked_until", sa.Double))
