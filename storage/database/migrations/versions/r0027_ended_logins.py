"""Logins that were ended: a cookie that somebody copied ends with them."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.create_table(
        "ended_logins",
        sa.Column("login", sa.String(32), primary_key=True),
        sa.Column("until", sa.Double, nullable=False),
    )
