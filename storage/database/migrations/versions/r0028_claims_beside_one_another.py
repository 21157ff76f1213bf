"""Claims of a model choose beside one another, only the last of a kind one after the other; fewer statements."""

from alembic import op

revision = "0028"
down_revision = "0027"

#: As in 0021, in two statements, and with others. Whoever gets a whole batch has torn none apart: there was enough for
#: two. Whoever gets less, and sees that there is more, lets go of it and chooses again with nobody beside it.
_CLAIM_BATCH = """
CREATE FUNCTION claim_batch(
    of_model text, for_worker text, at_most integer, lease_seconds double precision, most_bytes integer DEFAULT 32768
)
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
    alone boolean := false;
    now double precision;
    chosen bigint[];
    rounds integer[];
    first smallint;
    worst smallint;
    followed boolean;
    kind varchar;
    whole boolean;
    length bigint;
    started record;
BEGIN
    LOOP
        now := extract(epoch FROM clock_timestamp());
        BEGIN
            IF alone THEN
                gated := pg_advisory_lock(gate) IS NOT NULL;
            ELSE
                gated := pg_advisory_lock_shared(gate) IS NOT NULL;
            END IF;
            SELECT array_agg(one.id), array_agg(one.round), min(one.first), max(one.priority), bool_or(one.watched),
                min(one.kind), bool_or(one.suspect) OR count(*) >= min(one.most), sum(one.length)
            INTO chosen, rounds, first, worst, followed, kind, whole, length FROM (
                SELECT j.id, j.round, j.priority, j.watched, j.length, head.priority AS first, head.batch_key AS kind,
                    head.suspect, CASE WHEN strpos(head.batch_key, ':') > 0 THEN 256 ELSE at_most END AS most
                FROM (
                    SELECT h.id, h.priority, h.round, h.batch_key, h.suspect FROM jobs h
                    WHERE h.state = 'queued' AND h.model = of_model
                        AND (h.elsewhere_until IS NULL OR h.worker <> for_worker OR h.elsewhere_until < now)
                        AND NOT EXISTS (
                            SELECT FROM quarantines q
                            WHERE q.worker = for_worker AND (q.model = '' OR q.model = of_model) AND q.until > now
                        )
                    ORDER BY h.priority, h.round, h.id LIMIT 1
                    FOR UPDATE SKIP LOCKED
                ) AS head
                CROSS JOIN LATERAL (
                    SELECT f.id, f.round, f.priority, f.watched,
                        octet_length(f.spec) + coalesce(octet_length(f.replay), 0) AS length
                    FROM jobs f
                    WHERE f.state = 'queued' AND f.batch_key = head.batch_key
                        AND (f.id = head.id OR NOT (f.suspect OR head.suspect))
                        AND (f.priority, f.round, f.id) >= (head.priority, head.round, head.id)
                        AND (f.elsewhere_until IS NULL OR f.worker <> for_worker OR f.elsewhere_until < now)
                    ORDER BY f.priority, f.round, f.id
                    LIMIT CASE WHEN head.suspect THEN 1 WHEN strpos(head.batch_key, ':') > 0 THEN 256 ELSE at_most END
                    FOR UPDATE SKIP LOCKED
                ) AS j
            ) AS one;
            IF NOT (whole OR alone) THEN
                IF EXISTS (
                    SELECT FROM jobs j
                    WHERE j.state = 'queued' AND j.batch_key = kind AND NOT j.suspect AND j.id <> ALL (chosen)
                        AND (j.elsewhere_until IS NULL OR j.worker <> for_worker OR j.elsewhere_until < now)
                ) THEN
                    RAISE EXCEPTION USING ERRCODE = 'FRM01';
                END IF;
            END IF;
            -- Whoever comes next passes over what is locked now.
            IF alone THEN
                gated := NOT pg_advisory_unlock(gate);
            ELSE
                gated := NOT pg_advisory_unlock_shared(gate);
            END IF;
            IF chosen IS NULL THEN
                RETURN;
            END IF;
            IF followed THEN
                IF EXISTS (
                    SELECT FROM jobs j JOIN renders r ON r.id = j.render_id
                    WHERE j.id = ANY (chosen) AND j.watched AND r.webhook_url IS NOT NULL
                ) THEN
                    RETURN NEXT;
                    RETURN;
                END IF;
            END IF;

            -- It may have waited until here; the lease begins now. What is left is as urgent as the head, and right
            -- behind the last one: the index need not be read from its beginning, where what was claimed before is not
            -- yet cleared away.
            now := extract(epoch FROM clock_timestamp());
            RETURN QUERY UPDATE jobs j
            SET state = 'running', fence = j.fence + 1, attempt = j.attempt + 1, worker = for_worker,
                lease_until = now + lease_seconds, started_at = now, error = NULL, fault = NULL
            WHERE j.id = ANY (chosen)
            RETURNING j.id, j.render_id, j.index, CASE WHEN length <= most_bytes THEN j.spec END, j.fence, j.attempt,
                j.priority, j.round, j.watched, j.threads, CASE WHEN length <= most_bytes THEN j.replay END, j.suspect,
                j.batch_key, coalesce(
                    (
                        SELECT l.priority FROM jobs l
                        WHERE l.state = 'queued' AND l.model = of_model AND l.priority = first AND worst = first
                            AND (l.round, l.id) > (rounds[cardinality(rounds)], chosen[cardinality(chosen)])
                            AND (l.elsewhere_until IS NULL OR l.worker <> for_worker OR l.elsewhere_until < now)
                        ORDER BY l.round, l.id LIMIT 1
                    ),
                    (
                        SELECT l.priority FROM jobs l
                        WHERE l.state = 'queued' AND l.model = of_model AND l.id <> ALL (chosen)
                            AND (l.elsewhere_until IS NULL OR l.worker <> for_worker OR l.elsewhere_until < now)
                        ORDER BY l.priority, l.round, l.id LIMIT 1
                    )
                );

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
            RETURN;
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            IF gated AND alone THEN
                PERFORM pg_advisory_unlock(gate);
            ELSIF gated THEN
                PERFORM pg_advisory_unlock_shared(gate);
            END IF;
            gated := false;
            IF SQLSTATE <> 'FRM01' THEN
                RAISE;
            END IF;
            alone := true;
        END;
    END LOOP;
END $$
"""

#: As in 0021 to 0026, with the JSON read once and without a look beforehand: what is not all ours is taken back.
_COMPLETE_BATCH = """
CREATE OR REPLACE FUNCTION complete_batch(
    batch text, by_worker text, of_model text, batch_jobs text, with_recipe text, seconds double precision,
    elapsed double precision, storing double precision, pictures json
)
RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now double precision := extract(epoch FROM clock_timestamp());
    sent bigint[];
    fences integer[];
    objects text[];
    hashes text[];
    sizes integer[];
    pixels text[];
    said text[];
    recipes text[];
    ours integer := 0;
    counted record;
    render record;
BEGIN
    SELECT array_agg(p.id), array_agg(p.fence), array_agg(p.object), array_agg(p.sha256), array_agg(p.bytes),
        array_agg(p.pixels_sha256), array_agg(p.remarks), array_agg(p.own_recipe)
    INTO sent, fences, objects, hashes, sizes, pixels, said, recipes
    FROM json_to_recordset(pictures) AS p(
        id bigint, fence integer, object text, sha256 text, bytes integer, pixels_sha256 text, remarks text,
        own_recipe text
    );
    -- The renders last: whoever completes another batch of the same render waits for no more than the commit.
    FOR counted IN
        WITH moved AS (
            UPDATE jobs j
            SET state = 'done', finished_at = now, lease_until = NULL, batch_id = batch,
                object = objects[array_position(sent, j.id)], sha256 = hashes[array_position(sent, j.id)],
                bytes = sizes[array_position(sent, j.id)], pixels_sha256 = pixels[array_position(sent, j.id)],
                remarks = said[array_position(sent, j.id)], own_recipe = recipes[array_position(sent, j.id)]
            WHERE j.id = ANY (sent) AND j.fence = fences[array_position(sent, j.id)]
                AND coalesce(j.state, '') = 'running'
            RETURNING j.render_id, j.bytes, j.watched
        ), recorded AS (
            INSERT INTO batches (
                id, worker, model, jobs, recipe, render_seconds, elapsed_seconds, store_seconds, finished_at
            )
            VALUES (batch, by_worker, of_model, batch_jobs, with_recipe, seconds, elapsed, storing, now)
            ON CONFLICT DO NOTHING
        )
        SELECT moved.render_id AS id, count(*)::integer AS jobs, sum(moved.bytes) AS bytes,
            bool_or(moved.watched) AND EXISTS (
                SELECT FROM renders r WHERE r.id = moved.render_id AND r.webhook_url IS NOT NULL
            ) AS told,
            sum(count(*)) OVER () = cardinality(sent) AS whole
        FROM moved GROUP BY moved.render_id ORDER BY moved.render_id
    LOOP
        IF counted.told OR NOT counted.whole THEN
            RAISE EXCEPTION USING ERRCODE = 'FRM01';
        END IF;
        ours := ours + counted.jobs;
        UPDATE renders r
        SET done = r.done + counted.jobs, stored_bytes = r.stored_bytes + coalesce(counted.bytes, 0),
            first_done_at = least(r.first_done_at, now), last_done_at = greatest(r.last_done_at, now),
            finished_at = CASE WHEN r.done + r.failed + r.cancelled + counted.jobs >= r.total
                THEN extract(epoch FROM clock_timestamp()) END,
            events = CASE WHEN NOT r.watched THEN r.events
                ELSE r.events + counted.jobs
                    + (r.done + r.failed + r.cancelled + counted.jobs >= r.total)::integer END
        WHERE r.id = counted.id
        RETURNING r.watched, r.events, r.finished_at, r.total, r.done, r.failed, r.cancelled INTO render;
        IF render.watched THEN
            INSERT INTO events (render_id, seq, at, kind, index, data)
            SELECT counted.id,
                render.events - (render.finished_at IS NOT NULL)::integer - counted.jobs
                    + row_number() OVER (ORDER BY j.id),
                extract(epoch FROM clock_timestamp()), 'job.done', j.index, p.told
            FROM json_to_recordset(pictures) AS p(id bigint, told text) JOIN jobs j ON j.id = p.id
            WHERE j.id = ANY (sent) AND j.render_id = counted.id;
            IF render.finished_at IS NOT NULL THEN
                INSERT INTO events (render_id, seq, at, kind, data) VALUES (
                    counted.id, render.events, extract(epoch FROM clock_timestamp()), 'render.finished',
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
    IF ours = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'FRM01';
    END IF;
    RETURN true;
EXCEPTION WHEN SQLSTATE 'FRM01' THEN
    RETURN false;
END $$
"""

#: A session keeps its plans: made while the tables were empty, they are to do for full ones. Jobs are locked in the
#: order of their ids, as everywhere: not in that of pages.
_FOR_ANY_SIZE = (
    "SET plan_cache_mode = force_generic_plan "
    "SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION claim_batch(text, text, integer, double precision)")
        op.execute(_CLAIM_BATCH)
        op.execute(_COMPLETE_BATCH)
        # Behind a pooler, no session has settings of the farm's.
        for name in ("claim_batch", "complete_batch"):
            op.execute(f"ALTER FUNCTION {name} SET lock_timeout = '10s' {_FOR_ANY_SIZE}")
        op.execute("ALTER FUNCTION claim_batch SET enable_sort = off")
