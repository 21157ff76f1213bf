"""The next batch of a model's queue is chosen on PostgreSQL's side, in one round trip, while nobody else chooses."""

from alembic import op

revision = "0019"
down_revision = "0018"

#: What SQLite does in three statements within its one write transaction (`storage.jobs.claim`).
_NEXT_BATCH = """
CREATE FUNCTION next_batch(of_model text, for_worker text, at_most integer)
RETURNS TABLE (chosen bigint[], next_priority smallint)
LANGUAGE plpgsql AS $$
DECLARE
    -- Of the session, not of the transaction: it is let go before the commit, which waits for the disk.
    gate CONSTANT bigint := hashtextextended('claim:' || of_model, 0);
    now CONSTANT double precision := extract(epoch FROM clock_timestamp());
    head record;
    last record;
BEGIN
    IF EXISTS (
        SELECT FROM quarantines q
        WHERE q.worker = for_worker AND (q.model = '' OR q.model = of_model) AND q.until > now
    ) THEN
        RETURN;
    END IF;

    PERFORM pg_advisory_lock(gate);
    SELECT j.id, j.priority, j.batch_key, j.suspect INTO head FROM jobs j
    WHERE j.state = 'queued' AND j.model = of_model
        AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
    ORDER BY j.priority, j.round, j.id LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF head.suspect THEN
        chosen := ARRAY[head.id];
    ELSIF head.id IS NOT NULL THEN
        SELECT array_agg(one.id) INTO chosen FROM (
            SELECT j.id FROM jobs j
            WHERE j.state = 'queued' AND j.batch_key = head.batch_key AND NOT j.suspect
                AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
            ORDER BY j.priority, j.round, j.id LIMIT at_most
            FOR UPDATE SKIP LOCKED
        ) AS one;
    END IF;
    -- Whoever comes next passes over what is locked now.
    PERFORM pg_advisory_unlock(gate);
    IF chosen IS NULL THEN
        RETURN;
    END IF;

    -- As urgent as the head, and right behind the last one: the index need not be read from its beginning, where what
    -- was claimed before is not yet cleared away.
    SELECT j.priority, j.round, j.id INTO last FROM jobs j WHERE j.id = chosen[cardinality(chosen)];
    SELECT j.priority INTO next_priority FROM jobs j
    WHERE j.state = 'queued' AND j.model = of_model AND j.priority = head.priority AND last.priority = head.priority
        AND (j.round, j.id) > (last.round, last.id)
        AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
    ORDER BY j.round, j.id LIMIT 1;
    IF next_priority IS NULL THEN
        SELECT j.priority INTO next_priority FROM jobs j
        WHERE j.state = 'queued' AND j.model = of_model AND j.id <> ALL (chosen)
            AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
        ORDER BY j.priority, j.round, j.id LIMIT 1;
    END IF;
    RETURN NEXT;
EXCEPTION WHEN query_canceled OR OTHERS THEN
    PERFORM pg_advisory_unlock(gate);
    RAISE;
END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_NEXT_BATCH)
