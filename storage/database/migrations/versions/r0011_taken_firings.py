"""Firings are taken by the clock and accepted beside it, under a lease; and how long somebody has been ticking."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("firings", sa.Column("lease_until", sa.Double))
    op.add_column("firings", sa.Column("fence", sa.Integer, nullable=False, server_default="0"))
    op.add_column("firings", sa.Column("attempt", sa.Integer, nullable=False, server_default="0"))
    op.add_column("firings", sa.Column("long", sa.Boolean, nullable=False, server_default=sa.false()))
    taken = sa.text("outcome = 'taken'")
    op.create_index("ix_firings_taken", "firings", ["planned_at"], sqlite_where=taken, postgresql_where=taken)
    op.create_table(
        "ticking",
        sa.Column("clock", sa.String(16), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("clock", name="pk_ticking"),
    )
