"""Pictures that are denoised by slots: how each is made again, how long it took, and what a worker's slots do."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("replay", sa.Text))
    op.add_column("batches", sa.Column("elapsed_seconds", sa.Double))
    op.add_column("batches", sa.Column("store_seconds", sa.Double))
    op.add_column("workers", sa.Column("slots", sa.Text))
    # Of each job at the device by itself now; rows of workers that run are written anew within seconds.
    op.execute("UPDATE workers SET jobs = '[]'")
    # SQLite drops columns only by writing the table anew.
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("step")
        workers.drop_column("steps")
