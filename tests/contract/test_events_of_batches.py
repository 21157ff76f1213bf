"""What followers hear of batches, on both databases: with a webhook, PostgreSQL takes another way through the claim."""

from typing import Any

import pytest

from storage.database.connection import Database
from storage.events.log import EventLog
from storage.events.webhooks import Webhooks
from storage.jobs.jobs import Jobs
from storage.jobs.values import Submission, Webhook
from storage.renders.views import Views
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from tests.contract.renders import assert_rows_agree, claim, complete, fail, pictures, published, rendered, submit

WEBHOOK = Webhook(url="https://example.com/told", events=("job.started", "job.done", "render.finished"))


@pytest.fixture(params=[None, WEBHOOK], ids=["no webhook", "webhook"])
def webhook(request: pytest.FixtureRequest) -> Webhook | None:
    found: Webhook | None = request.param
    return found


def follow(farm: Jobs, n: int, webhook: Webhook | None) -> str:
    """A render of so many pictures that somebody follows."""
    submission = Submission(owner="ann", priority=Priority.NORMAL, watched=True, webhook=webhook)
    return farm.submit(pictures(n), submission, quanta={"tiny": 8})


def heard(database: Database, render_id: str) -> list[tuple[int, str, int | None, dict[str, Any]]]:
    events = EventLog(database).after(render_id, 0)
    assert sorted(one.at for one in events) == [one.at for one in events]
    return [(one.seq, str(one.kind), one.index, dict(one.data)) for one in events]


def test_followers_hear_of_every_picture_and_of_the_end_once_and_in_order(
    farm: Jobs, database: Database, webhook: Webhook | None
) -> None:
    render_id = follow(farm, 3, webhook)
    complete(farm, claim(farm, limit=2))
    complete(farm, claim(farm, limit=2, worker="w2"))
    view = Views(database).render(render_id)
    counted = {"state": "done", "total": 3, "done": 3, "failed": 0, "cancelled": 0, "finished_at": view.finished_at}
    assert heard(database, render_id) == [
        (1, "job.started", 0, {"worker": "w1", "attempt": 1}),
        (2, "job.started", 1, {"worker": "w1", "attempt": 1}),
        (3, "job.done", 0, {"seed": 0, "sha256": f"{1:064x}"}),
        (4, "job.done", 1, {"seed": 1, "sha256": f"{2:064x}"}),
        (5, "job.started", 2, {"worker": "w2", "attempt": 1}),
        (6, "job.done", 2, {"seed": 2, "sha256": f"{3:064x}"}),
        (7, "render.finished", None, counted),
    ]
    messages = Webhooks(database).all(owner="ann")
    assert len(messages) == (7 if webhook else 0)
    assert_rows_agree(database)


def test_the_end_of_a_render_says_that_some_of_it_failed_or_was_cancelled(
    farm: Jobs, database: Database, webhook: Webhook | None
) -> None:
    for ends, state in (((True, True), "failed"), ((False, True), "cancelled")):
        render_id = follow(farm, 3, webhook)
        found = claim(farm)
        if ends[0]:
            fail(farm, found.jobs[0], "black picture", fault=Fault.BAD_SPECIFICATION)
        else:
            farm.cancel_job(render_id, 0)
        farm.cancel_job(render_id, 1)
        assert farm.complete(rendered(found), published(found.jobs[2])) == {}
        *_, (_, kind, _, data) = heard(database, render_id)
        assert (kind, data["state"], data["done"]) == ("render.finished", state, 1)


def test_a_batch_of_two_renders_is_told_to_the_followers_of_each(farm: Jobs, database: Database) -> None:
    followed, webhooked = follow(farm, 2, None), follow(farm, 1, WEBHOOK)
    unfollowed = submit(farm, pictures(2))
    found = claim(farm, limit=8)
    assert len(found.jobs) == 5
    complete(farm, found)
    kinds = {
        render_id: [kind for _, kind, _, _ in heard(database, render_id)]
        for render_id in (followed, webhooked, unfollowed)
    }
    assert kinds == {
        followed: ["job.started"] * 2 + ["job.done"] * 2 + ["render.finished"],
        webhooked: ["job.started", "job.done", "render.finished"],
        unfollowed: [],
    }
    assert [Views(database).render(one).state for one in kinds] == ["done"] * 3


def test_a_completion_is_told_once_though_it_is_repeated_or_comes_in_part_too_late(
    farm: Jobs, database: Database, webhook: Webhook | None
) -> None:
    render_id = follow(farm, 3, webhook)
    found = claim(farm)
    farm.cancel_job(render_id, 1)
    for _ in range(2):
        assert complete(farm, found) == {found.jobs[1].id: State.CANCELLED}
    told = [(kind, index) for _, kind, index, _ in heard(database, render_id)[3:]]
    assert told == [("job.cancelled", 1), ("job.done", 0), ("job.done", 2), ("render.finished", None)]
