"""PostgreSQL completes a batch by its jobs' ids: taking JSON for a hundred rows, it would read all jobs for eight."""

from alembic import op

revision = "0026"
down_revision = "0025"

#: In place, whatever else the function has come to say.
_COMPLETE_BY_ID = """
DO $do$
DECLARE
    said text := pg_get_functiondef('complete_batch'::regproc);
    complete text := said;
    one text[];
BEGIN
    FOREACH one SLICE 1 IN ARRAY ARRAY[
        [
            'ours bigint[];',
            'ours bigint[];
    sent bigint[];
    fences integer[];'
        ],
        [
            'SELECT array_agg(one.id), bool_or(one.watched) INTO ours, followed FROM (',
            'SELECT array_agg(p.id), array_agg(p.fence) INTO sent, fences
    FROM json_to_recordset(pictures) AS p(id bigint, fence integer);
    SELECT array_agg(one.id), bool_or(one.watched) INTO ours, followed FROM ('
        ],
        [
            'SELECT j.id, j.watched FROM json_to_recordset(pictures) AS p(id bigint, fence integer)
        JOIN jobs j ON j.id = p.id AND j.fence = p.fence AND coalesce(j.state, '''') = ''running''',
            'SELECT j.id, j.watched FROM jobs j
        WHERE j.id = ANY (sent) AND j.fence = fences[array_position(sent, j.id)]
            AND coalesce(j.state, '''') = ''running'''
        ],
        [
            'WHERE j.id = p.id;
    INSERT INTO batches',
            'WHERE j.id = p.id AND j.id = ANY (ours);
    INSERT INTO batches'
        ],
        [
            'JOIN jobs j ON j.id = p.id
            WHERE j.render_id = counted.id;',
            'JOIN jobs j ON j.id = p.id
            WHERE j.id = ANY (ours) AND j.render_id = counted.id;'
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
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_COMPLETE_BY_ID)
