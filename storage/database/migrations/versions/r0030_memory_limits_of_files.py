"""What memory a model needs is learned of its files as they are: others in their place need more, or less.

What was learned until now is learned again within a batch; it was forgotten after a day.
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.drop_table("memory_limits")
    op.create_table(
        "memory_limits",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("entry", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("device_name", sa.String(128), nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("frugal", sa.Boolean, nullable=False),
        sa.Column("learned_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "entry", "width", "height", "device_name", name="pk_memory_limits"),
    )
