"""What is left to render, and which of a render's pictures are meant, on each database."""

from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob
from storage.renders.backlog import Backlog
from storage.renders.filters import JobFilter
from storage.renders.views import Views
from storage.rules.states import Priority
from tests.contract.renders import claim, complete, pictures, submit


def test_what_is_left_is_summed_by_owner_priority_and_models(farm: Jobs, database: Database) -> None:
    submit(farm, pictures(5))
    complete(farm, claim(farm, limit=2))
    submit(farm, pictures(4))
    submit(farm, pictures(3, model="other"), owner="ben", priority=Priority.BULK)
    farm.hold(submit(farm, pictures(2), owner="ben"))
    farm.cancel(submit(farm, pictures(9)))

    left = Backlog(database).left()
    assert [(one.owner, one.priority, one.models, one.held, one.renders, one.pictures) for one in left] == [
        ("ann", Priority.NORMAL, ("tiny",), False, 2, 7),
        ("ben", Priority.NORMAL, ("tiny",), True, 1, 2),
        ("ben", Priority.BULK, ("other",), False, 1, 3),
    ]
    assert all(one.oldest_seconds >= 0 for one in left)
    assert [one.pictures for one in Backlog(database).left(owner="ben")] == [2, 3]
    assert Backlog(database).left(owner="nobody") == []


def test_pictures_are_found_by_their_prompts_models_and_seeds(farm: Jobs, database: Database) -> None:
    prompts = ("a Red star", '100% "red" \\ moon', "a blue_star")
    specs = [one.model_copy(update={"prompt": prompt}) for one, prompt in zip(pictures(3), prompts, strict=True)]
    render = submit(farm, [NewJob(spec=one) for one in specs])

    def found(which: JobFilter) -> list[int]:
        return [job.index for job in Views(database).jobs(render, which=which)]

    assert found(JobFilter()) == [0, 1, 2]
    assert found(JobFilter(prompt="RED")) == [0, 1]
    for prompt, indexes in (("100%", [1]), ("1%", []), ('"red" \\', [1]), ("e_s", [2]), ("prompt", []), ("'", [])):
        assert found(JobFilter(prompt=prompt)) == indexes
    assert found(JobFilter(seed=specs[2].seed)) == [2]
    assert found(JobFilter(seed=specs[2].seed, prompt="red")) == []
    assert found(JobFilter(model="tiny")) == [0, 1, 2]
    assert found(JobFilter(model="other")) == []
