"""Which jobs are claimed next and which of them together, on both databases."""

import pytest

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.jobs.staging import CHUNK
from storage.jobs.values import ClaimedJob, Submission
from storage.renders.views import Views
from storage.rules.states import Priority, State
from storage.spec.models import MOST_AT_ONCE
from tests.contract.renders import claim, complete, died, drain, fail, lapse_leases, pictures, states, submit


def owners(database: Database, claimed: list[ClaimedJob]) -> list[str]:
    """Whose these jobs are, in their order."""
    by_render = {view.id: view.owner for view in Views(database).renders(limit=100)}
    return [by_render[job.render_id] for job in claimed]


# -- priority, round, age ---------------------------------------------------------------------------------------


def test_a_better_priority_is_served_first_however_late_it_came(farm: Jobs) -> None:
    expected = [
        submit(farm, pictures(2), priority=priority)
        for priority in (Priority.BULK, Priority.NORMAL, Priority.INTERACTIVE)
    ][::-1]
    claimed = drain(farm, limit=1)
    assert [job.render_id for job in claimed] == [render_id for render_id in expected for _ in range(2)]


def test_an_owners_renders_follow_one_another_in_their_order(farm: Jobs) -> None:
    expected = [submit(farm, pictures(5), quantum=2) for _ in range(3)]
    claimed = drain(farm, limit=3)
    assert [job.render_id for job in claimed] == [render_id for render_id in expected for _ in range(5)]
    assert [job.index for job in claimed] == [*range(5)] * 3


def test_two_owners_take_turns_of_one_quantum(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(6), owner="ann", quantum=2)
    submit(farm, pictures(6), owner="bob", quantum=2)
    assert owners(database, drain(farm)) == ["ann", "ann", "bob", "bob"] * 3


def test_ten_pictures_do_not_wait_for_another_owners_five_thousand(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(5000), owner="ann")
    submit(farm, pictures(10), owner="bob")
    claimed = [job for _ in range(4) for job in claim(farm, limit=8).jobs]
    assert owners(database, claimed).count("bob") == 10


def test_an_owner_who_comes_late_joins_the_turn_being_served(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(100), owner="ann", quantum=2)
    for _ in range(20):
        claim(farm, limit=2)
    submit(farm, pictures(4), owner="bob", quantum=2)
    claimed = [job for _ in range(4) for job in claim(farm, limit=2).jobs]
    assert owners(database, claimed) == ["ann", "ann", "bob", "bob"] * 2


def test_submitting_in_many_small_renders_gives_no_advantage(farm: Jobs, database: Database) -> None:
    for _ in range(12):
        submit(farm, pictures(1), owner="ann", quantum=4)
    submit(farm, pictures(12), owner="bob", quantum=4)
    for _ in range(12):
        submit(farm, pictures(1), owner="cid", quantum=4)
    assert owners(database, drain(farm)) == (["ann"] * 4 + ["bob"] * 4 + ["cid"] * 4) * 3


def test_a_job_that_comes_back_keeps_its_place(farm: Jobs, database: Database) -> None:
    render_id = submit(farm, pictures(4), quantum=1)
    first = claim(farm, limit=1)
    lapse_leases(database)
    farm.recover_lapsed()
    assert claim(farm, limit=1).jobs[0].id == first.jobs[0].id
    assert states(database, render_id).count(State.QUEUED) == 3


def test_a_job_that_comes_back_does_not_put_newcomers_ahead_of_others(farm: Jobs, database: Database) -> None:
    # Its turn is long past; a newcomer dealt from there would overtake everybody.
    submit(farm, pictures(50), owner="ann", quantum=1)
    back = claim(farm, limit=1, worker="stopping")
    for _ in range(20):
        claim(farm, limit=1)
    farm.requeue_from_worker(worker="stopping")
    submit(farm, pictures(20), owner="bob", quantum=1)
    claimed = [claim(farm, limit=1).jobs[0] for _ in range(9)]
    assert claimed[0].id == back.jobs[0].id
    assert owners(database, claimed[1:]) == ["ann", "bob"] * 4


def test_jobs_that_come_back_to_an_empty_queue_do_not_wait_behind_newcomers(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(40), owner="ann", quantum=1)
    for _ in range(39):
        claim(farm, limit=1)
    claim(farm, limit=1, worker="killed")
    submit(farm, pictures(40), owner="bob", quantum=1)
    died(farm, worker="killed")
    assert "ann" in owners(database, [claim(farm, limit=1).jobs[0] for _ in range(4)])


def test_a_retry_takes_its_place_at_the_end_of_its_owners_jobs(farm: Jobs, database: Database) -> None:
    failed = submit(farm, pictures(2), owner="ann", quantum=1)
    for _ in range(2):
        fail(farm, claim(farm, limit=1).jobs[0], "black picture")
    submit(farm, pictures(3), owner="bob", quantum=1)
    farm.retry(failed, quanta={"tiny": 1})
    assert sorted(owners(database, drain(farm, limit=1))[:4]) == ["ann", "ann", "bob", "bob"]


# -- what may be rendered together -----------------------------------------------------------------------------


def test_a_batch_has_at_most_as_many_jobs_as_were_asked_for(farm: Jobs) -> None:
    submit(farm, pictures(10))
    assert [len(claim(farm, limit=limit).jobs) for limit in (1, 4, 3, 8)] == [1, 4, 3, 2]


def test_a_batch_is_filled_with_jobs_of_the_heads_kind_only(farm: Jobs) -> None:
    submit(farm, [*pictures(1), *pictures(1, width=128), *pictures(2), *pictures(1, width=128)])
    batches = [[job.index for job in claim(farm).jobs] for _ in range(2)]
    assert batches == [[0, 2, 3], [1, 4]]


def test_a_batch_is_filled_across_renders_owners_and_priorities(farm: Jobs) -> None:
    ids = [
        submit(farm, pictures(1), owner="ann"),
        submit(farm, pictures(1), owner="bob"),
        submit(farm, pictures(1), owner="bob", priority=Priority.BULK),
    ]
    assert [job.render_id for job in claim(farm).jobs] == ids


def test_jobs_that_must_stay_together_are_never_batched_with_strangers(farm: Jobs) -> None:
    before = submit(farm, pictures(2), owner="ann")
    own = submit(farm, pictures(3), owner="bob", together=True)
    other = submit(farm, pictures(2), owner="cid", together=True)
    after = submit(farm, pictures(2), owner="dan")
    batches = [[job.render_id for job in claim(farm).jobs] for _ in range(3)]
    assert batches == [[before] * 2 + [after] * 2, [own] * 3, [other] * 2]


@pytest.mark.parametrize("n", [2, CHUNK + 5], ids=["few", "staged"])
def test_a_worker_hears_by_how_many_threads_a_job_is_to_be_rendered(farm: Jobs, n: int) -> None:
    as_before = Submission(owner="bob", priority=Priority.NORMAL, together=True, threads=3)
    farm.submit(pictures(n), as_before, quanta={"tiny": 8})
    submit(farm, pictures(1), owner="ann", priority=Priority.INTERACTIVE)
    assert [job.threads for job in claim(farm).jobs] == [None]
    # What is made again together is claimed whole, whatever the limit; more than a call ever has was none.
    assert [job.threads for job in claim(farm, limit=2).jobs] == [3] * min(n, MOST_AT_ONCE)


def test_a_batch_never_mixes_models(farm: Jobs) -> None:
    submit(farm, [*pictures(1), *pictures(1, model="other"), *pictures(1)])
    assert [job.index for job in claim(farm).jobs] == [0, 2]
    assert [job.index for job in claim(farm, model="other").jobs] == [1]


# -- the cost of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["queue", "fill"])
def test_a_claim_is_served_by_its_indexes(farm: Jobs, database: Database, column: str) -> None:
    # A million waiting jobs must not be sorted for each claim.
    submit(farm, pictures(2000))
    where = {"queue": "model = 'tiny'", "fill": "batch_key = 'abc'"}[column]
    query = f"SELECT id FROM jobs WHERE state = 'queued' AND {where} ORDER BY priority, round, id LIMIT 8"
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE jobs")
        explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {query}"))
    assert f"ix_jobs_{column}" in plan
    assert "sort" not in plan.lower()
    assert "b-tree" not in plan.lower()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_batch_is_claimed_and_completed_by_indexes_though_it_was_planned_for_empty_tables(
    farm: Jobs, database: Database
) -> None:
    # A session keeps its plans; the statistics of a table that has just been filled follow minutes later.
    def scans() -> int:
        with database.write() as connection:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        counted = "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('jobs', 'renders')"
        with database.read() as connection:
            return int(connection.exec_driver_sql(counted).scalar_one())

    submit(farm, pictures(40), watched=True)
    before = scans()
    for _ in range(4):
        assert complete(farm, claim(farm)) == {}
    assert scans() == before
