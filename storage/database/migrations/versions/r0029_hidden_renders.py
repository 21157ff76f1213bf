"""Hidden renders by an index of their own: the look for them, every other second, read the rows of all renders."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    of_postgresql, of_sqlite = sa.text("purging"), sa.text("purging = 1")
    op.create_index("ix_renders_purging", "renders", ["id"], sqlite_where=of_sqlite, postgresql_where=of_postgresql)
