"""How much is stored of each render, and since when, is counted with its pictures: usage reads none of their rows."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

_FROM_ROWS = """
UPDATE renders SET stored_bytes = stored.bytes, first_done_at = stored.first, last_done_at = stored.last
FROM (
    SELECT render_id, coalesce(sum(bytes), 0) AS bytes, min(finished_at) AS first, max(finished_at) AS last
    FROM jobs WHERE state = 'done' GROUP BY render_id
) AS stored
WHERE stored.render_id = renders.id
"""
#: In place, whatever else the function has come to say.
_COMPLETE_AND_COUNT = """
DO $do$
DECLARE
    said text := pg_get_functiondef('complete_batch'::regproc);
    complete text := said;
    one text[];
BEGIN
    FOREACH one SLICE 1 IN ARRAY ARRAY[
        [
            'SELECT j.render_id AS id, count(*)::integer AS jobs FROM jobs j',
            'SELECT j.render_id AS id, count(*)::integer AS jobs, sum(j.bytes) AS bytes, '
                'min(j.finished_at) AS first, max(j.finished_at) AS last FROM jobs j'
        ],
        [
            'SET done = r.done + counted.jobs,',
            'SET done = r.done + counted.jobs, stored_bytes = r.stored_bytes + coalesce(counted.bytes, 0), '
                'first_done_at = least(r.first_done_at, counted.first), '
                'last_done_at = greatest(r.last_done_at, counted.last),'
        ]
    ] LOOP
        IF strpos(complete, one[1]) = 0 THEN
            RAISE EXCEPTION 'the function complete_batch does not say: %', one[1];
        END IF;
        complete := replace(complete, one[1], one[2]);
    END LOOP;
    EXECUTE complete;
END $do$
"""


def upgrade() -> None:
    op.add_column("renders", sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("renders", sa.Column("first_done_at", sa.Double))
    op.add_column("renders", sa.Column("last_done_at", sa.Double))
    op.execute(_FROM_ROWS)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_COMPLETE_AND_COUNT)
