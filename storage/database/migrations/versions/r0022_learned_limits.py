"""The batch limit that is best for a device is learned; a batch that is made again is claimed whole, however large."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

#: What is made again together has a batch key of its render's own, with a colon (`storage.jobs.submission`).
_WHOLE = "LIMIT CASE WHEN strpos(head.batch_key, '':'') > 0 THEN 256 ELSE at_most END"
#: In place, whatever else these functions have come to say.
_CLAIM_WHOLE = """
DO $do$
DECLARE
    name text;
    said text;
BEGIN
    FOREACH name IN ARRAY ARRAY['next_batch', 'claim_batch'] LOOP
        said := pg_get_functiondef(name::regproc);
        IF strpos(said, 'LIMIT at_most') = 0 THEN
            RAISE EXCEPTION 'the function % has no limit to be changed', name;
        END IF;
        EXECUTE replace(said, 'LIMIT at_most', '{whole}');
    END LOOP;
END $do$
"""


def upgrade() -> None:
    op.create_table(
        "learned_limits",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("entry", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("device_name", sa.String(128), nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("learned_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("model", "entry", "width", "height", "device_name", name="pk_learned_limits"),
    )
    op.add_column("workers", sa.Column("batch_limit", sa.Integer))
    op.add_column("workers", sa.Column("limit_reason", sa.String(16)))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_CLAIM_WHOLE.format(whole=_WHOLE))
