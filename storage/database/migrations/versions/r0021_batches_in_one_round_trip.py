"""PostgreSQL claims a batch, and completes it, by functions of its own: one round trip, and no lock is held over it."""

from alembic import op

revision = "0021"
down_revision = "0020"

#: As `storage.jobs.claim` does step by step. One row of nothing: for renders with webhooks only that one knows how.
_CLAIM_BATCH = """
CREATE FUNCTION claim_batch(of_model text, for_worker text, at_most integer, lease_seconds double precision)
RETURNS TABLE (
    id bigint, render_id varchar, index integer, spec text, fence integer, attempt integer, priority smallint,
    round integer, watched boolean, threads integer, replay text, suspect boolean, batch_key varchar,
    next_priority smallint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- Of the session, not of the transaction: it is let go before the commit, which waits for the disk.
    gate CONSTANT bigint := hashtextextended('claim:' || of_model, 0);
    gated boolean := false;
    now double precision := extract(epoch FROM clock_timestamp());
    head record;
    chosen bigint[];
    rounds integer[];
    worst smallint;
    followed boolean;
    left_over smallint;
    started record;
BEGIN
    IF EXISTS (
        SELECT FROM quarantines q
        WHERE q.worker = for_worker AND (q.model = '' OR q.model = of_model) AND q.until > now
    ) THEN
        RETURN;
    END IF;

    PERFORM pg_advisory_lock(gate);
    gated := true;
    SELECT j.id, j.priority, j.round, j.batch_key, j.suspect, j.watched INTO head FROM jobs j
    WHERE j.state = 'queued' AND j.model = of_model
        AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
    ORDER BY j.priority, j.round, j.id LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF head.suspect THEN
        chosen := ARRAY[head.id];
        rounds := ARRAY[head.round];
        worst := head.priority;
        followed := head.watched;
    ELSIF head.id IS NOT NULL THEN
        SELECT array_agg(one.id), array_agg(one.round), max(one.priority), bool_or(one.watched)
        INTO chosen, rounds, worst, followed FROM (
            SELECT j.id, j.round, j.priority, j.watched FROM jobs j
            WHERE j.state = 'queued' AND j.batch_key = head.batch_key AND NOT j.suspect
                AND (j.priority, j.round, j.id) >= (head.priority, head.round, head.id)
                AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
            ORDER BY j.priority, j.round, j.id LIMIT at_most
            FOR UPDATE SKIP LOCKED
        ) AS one;
    END IF;
    -- Whoever comes next passes over what is locked now.
    PERFORM pg_advisory_unlock(gate);
    gated := false;
    IF chosen IS NULL THEN
        RETURN;
    END IF;
    IF followed AND EXISTS (
        SELECT FROM jobs j JOIN renders r ON r.id = j.render_id
        WHERE j.id = ANY (chosen) AND j.watched AND r.webhook_url IS NOT NULL
    ) THEN
        RETURN NEXT;
        RETURN;
    END IF;

    -- As urgent as the head, and right behind the last one: the index need not be read from its beginning, where what
    -- was claimed before is not yet cleared away.
    IF worst = head.priority THEN
        SELECT j.priority INTO left_over FROM jobs j
        WHERE j.state = 'queued' AND j.model = of_model AND j.priority = head.priority
            AND (j.round, j.id) > (rounds[cardinality(rounds)], chosen[cardinality(chosen)])
            AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
        ORDER BY j.round, j.id LIMIT 1;
    END IF;
    IF left_over IS NULL THEN
        SELECT j.priority INTO left_over FROM jobs j
        WHERE j.state = 'queued' AND j.model = of_model AND j.id <> ALL (chosen)
            AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
        ORDER BY j.priority, j.round, j.id LIMIT 1;
    END IF;

    -- It may have waited until here; the lease begins now.
    now := extract(epoch FROM clock_timestamp());
    RETURN QUERY UPDATE jobs j
    SET state = 'running', fence = j.fence + 1, attempt = j.attempt + 1, worker = for_worker,
        lease_until = now + lease_seconds, started_at = now, error = NULL, fault = NULL
    WHERE j.id = ANY (chosen)
    RETURNING j.id, j.render_id, j.index, j.spec, j.fence, j.attempt, j.priority, j.round, j.watched, j.threads,
        j.replay, j.suspect, j.batch_key, left_over;

    -- In the order of ids, as everywhere where renders are locked.
    IF followed THEN
        FOR started IN
            SELECT j.render_id AS id, count(*)::integer AS jobs FROM jobs j
            WHERE j.id = ANY (chosen) AND j.watched GROUP BY j.render_id ORDER BY j.render_id
        LOOP
            WITH numbered AS (
                UPDATE renders r SET events = r.events + started.jobs WHERE r.id = started.id AND r.watched
                RETURNING r.events - started.jobs AS before
            )
            INSERT INTO events (render_id, seq, at, kind, index, data)
            SELECT started.id, numbered.before + row_number() OVER (ORDER BY j.priority, j.round, j.id),
                extract(epoch FROM clock_timestamp()), 'job.started', j.index,
                json_build_object('worker', for_worker, 'attempt', j.attempt)
            FROM numbered, jobs j WHERE j.id = ANY (chosen) AND j.render_id = started.id;
        END LOOP;
    END IF;
EXCEPTION WHEN query_canceled OR OTHERS THEN
    IF gated THEN
        PERFORM pg_advisory_unlock(gate);
    END IF;
    RAISE;
END $$
"""

#: As `storage.jobs.completion` does step by step. False, having done nothing: not all are ours, or one has a webhook.
_COMPLETE_BATCH = """
CREATE FUNCTION complete_batch(
    batch text, by_worker text, of_model text, batch_jobs text, with_recipe text, seconds double precision,
    elapsed double precision, storing double precision, pictures json
)
RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now double precision;
    ours bigint[];
    followed boolean;
    counted record;
    render record;
BEGIN
    SELECT array_agg(one.id), bool_or(one.watched) INTO ours, followed FROM (
        SELECT j.id, j.watched FROM json_to_recordset(pictures) AS p(id bigint, fence integer)
        JOIN jobs j ON j.id = p.id AND j.fence = p.fence AND coalesce(j.state, '') = 'running'
        ORDER BY j.id
        FOR UPDATE OF j
    ) AS one;
    IF cardinality(ours) IS DISTINCT FROM json_array_length(pictures) THEN
        RETURN false;
    END IF;
    IF followed AND EXISTS (
        SELECT FROM jobs j JOIN renders r ON r.id = j.render_id
        WHERE j.id = ANY (ours) AND j.watched AND r.webhook_url IS NOT NULL
    ) THEN
        RETURN false;
    END IF;

    now := extract(epoch FROM clock_timestamp());
    UPDATE jobs j
    SET state = 'done', finished_at = now, lease_until = NULL, batch_id = batch, object = p.object,
        sha256 = p.sha256, bytes = p.bytes, pixels_sha256 = p.pixels_sha256, remarks = p.remarks
    FROM json_to_recordset(pictures) AS p(
        id bigint, object text, sha256 text, bytes integer, pixels_sha256 text, remarks text
    )
    WHERE j.id = p.id;
    INSERT INTO batches (
        id, worker, model, jobs, recipe, render_seconds, elapsed_seconds, store_seconds, finished_at
    )
    VALUES (batch, by_worker, of_model, batch_jobs, with_recipe, seconds, elapsed, storing, now)
    ON CONFLICT DO NOTHING;

    -- Last: whoever completes another batch of the same render waits for no more than the commit.
    FOR counted IN
        SELECT j.render_id AS id, count(*)::integer AS jobs FROM jobs j
        WHERE j.id = ANY (ours) GROUP BY j.render_id ORDER BY j.render_id
    LOOP
        UPDATE renders r
        SET done = r.done + counted.jobs,
            finished_at = CASE WHEN r.done + r.failed + r.cancelled + counted.jobs >= r.total
                THEN extract(epoch FROM clock_timestamp()) END,
            events = CASE WHEN NOT r.watched THEN r.events
                ELSE r.events + counted.jobs
                    + (r.done + r.failed + r.cancelled + counted.jobs >= r.total)::integer END
        WHERE r.id = counted.id
        RETURNING r.watched, r.events, r.finished_at, r.total, r.done, r.failed, r.cancelled INTO render;
        IF render.watched THEN
            now := extract(epoch FROM clock_timestamp());
            INSERT INTO events (render_id, seq, at, kind, index, data)
            SELECT counted.id,
                render.events - (render.finished_at IS NOT NULL)::integer - counted.jobs
                    + row_number() OVER (ORDER BY j.id),
                now, 'job.done', j.index, p.told
            FROM json_to_recordset(pictures) AS p(id bigint, told text) JOIN jobs j ON j.id = p.id
            WHERE j.render_id = counted.id;
            IF render.finished_at IS NOT NULL THEN
                INSERT INTO events (render_id, seq, at, kind, data) VALUES (
                    counted.id, render.events, now, 'render.finished',
                    json_build_object(
                        'state', CASE WHEN render.failed > 0 THEN 'failed' WHEN render.cancelled > 0 THEN 'cancelled'
                            ELSE 'done' END,
                        'total', render.total, 'done', render.done, 'failed', render.failed,
                        'cancelled', render.cancelled, 'finished_at', render.finished_at
                    )
                );
            END IF;
        END IF;
    END LOOP;
    RETURN true;
END $$
"""


#: A session keeps its plans: made while the tables were empty, they are to do for full ones.
_FOR_ANY_SIZE = (
    "SET plan_cache_mode = force_generic_plan "
    "SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_CLAIM_BATCH)
        op.execute(_COMPLETE_BATCH)
        # Behind a pooler, no session has settings of the farm's.
        for name in ("claim_batch", "complete_batch"):
            op.execute(f"ALTER FUNCTION {name} SET lock_timeout = '10s' {_FOR_ANY_SIZE}")
        op.execute("ALTER FUNCTION claim_batch SET enable_sort = off")
