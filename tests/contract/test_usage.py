"""How much whose pictures take, on each database: counted with the renders, and by their rows the same."""

from sqlalchemy import event

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.renders.deletion import Deletions
from storage.renders.measures import Measures
from storage.renders.views import Views
from tests.contract.renders import claim, complete, fail, pictures, rows, submit


def test_usage_is_what_the_rows_of_done_pictures_add_up_to(farm: Jobs, database: Database) -> None:
    first, second = submit(farm, pictures(3)), submit(farm, pictures(2), watched=True)
    submit(farm, pictures(4), owner="ben")
    submit(farm, pictures(1), owner="cid")
    assert Measures(database).usage() == []
    for _ in range(2):
        complete(farm, claim(farm, limit=3))
    fail(farm, claim(farm, limit=1).jobs[0], "bad")
    done = [row for name in (first, second) for row in rows(database, name) if row.state == "done"]
    found = {one.owner: one for one in Measures(database).usage()}
    assert "cid" not in found or found["cid"].pictures
    mine = found["ann"]
    assert (mine.pictures, mine.bytes) == (len(done), sum(row.bytes for row in done))
    assert mine.renders == len({row.render_id for row in done})
    assert abs(mine.oldest - min(row.finished_at for row in done)) < 1
    assert abs(mine.newest - max(row.finished_at for row in done)) < 1
    assert Measures(database).usage(owner="ann") == [mine]
    assert Measures(database).usage(owner="nobody") == []


def test_what_is_deleted_takes_no_more_space(farm: Jobs, database: Database) -> None:
    render = submit(farm, pictures(3))
    complete(farm, claim(farm))
    before, *_ = Measures(database).usage()
    job = Views(database).job(f"{render}-000001")
    Deletions(database, farm).delete_job(job)
    [after] = Measures(database).usage()
    assert (after.pictures, after.bytes) == (2, before.bytes - (job.bytes or 0))


def test_usage_reads_no_row_of_a_picture(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(3))
    complete(farm, claim(farm))
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    assert Measures(database).usage()
    assert not [one for one in sent if "FROM jobs" in one]


def test_an_estimate_reads_what_was_made_since_the_last_one(farm: Jobs, database: Database) -> None:
    measures = Measures(database)
    submit(farm, pictures(6))
    complete(farm, claim(farm, limit=2))
    [first] = measures.samples("tiny")
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    assert measures.samples("tiny") == [first]
    assert not [one for one in sent if "FROM jobs" in one]
    complete(farm, claim(farm, limit=4))
    latest, before = measures.samples("tiny")
    assert (latest.pictures, before) == (4, first)
    assert measures.samples("tiny") == Measures(database).samples("tiny")
