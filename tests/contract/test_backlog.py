"""What is left to render, and which of a render's pictures are meant, on each database."""

from sqlalchemy import update

from storage.database.connection import Database
from storage.database.tables import jobs
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob
from storage.renders.backlog import Backlog
from storage.renders.filters import JobFilter, LabelBound
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


def test_pictures_are_found_by_numbers_that_come_as_labels(farm: Jobs, database: Database) -> None:
    scores = (0.25, 3, "0.9", True, None, 1e300, -1, {"a": 1})
    labels = [{"score": score, 'o"dd': 2, "x": "a\0" if n == 6 else "a"} for n, score in enumerate(scores)]
    specs = [NewJob(spec=one, labels=said) for one, said in zip(pictures(8), labels, strict=True)]
    render = submit(farm, [*specs, *pictures(9)[8:]])

    def found(label: str, bound: float, *, at_least: bool = True) -> list[int]:
        which = JobFilter(bound=LabelBound(label=label, bound=bound, at_least=at_least))
        return [job.index for job in Views(database).jobs(render, which=which) if job.index != 6]

    assert found("score", 0.25) == [0, 1, 5]
    assert found("score", 0.26) == [1, 5]
    assert found("score", 3, at_least=False) == [0, 1]
    assert found("score", -1e308, at_least=False) == []
    assert found('o"dd', 2) == [0, 1, 2, 3, 4, 5, 7]
    assert found("x", -1e9) == found("$.score", -1e9) == found("", 0) == []


def test_pictures_are_found_that_are_like_another_one_of_their_render(farm: Jobs, database: Database) -> None:
    one, two, three = pictures(3)
    render, other = submit(farm, [one, two, one, three]), submit(farm, [two])
    complete(farm, claim(farm, limit=5))
    with database.write() as connection:
        for index, pixels in enumerate(("a", "b", "a", "b")):
            of_one = (jobs.c.render_id == render) & (jobs.c.index == index)
            connection.execute(update(jobs).where(of_one).values(pixels_sha256=pixels if index else None))

    def found(render_id: str, which: JobFilter, after: int = -1) -> list[int]:
        return [job.index for job in Views(database).jobs(render_id, which=which, after=after)]

    # One of an early version has no hash of its pixels.
    assert found(render, JobFilter(duplicates="pixels")) == [1, 3]
    assert found(render, JobFilter(duplicates="pixels"), after=1) == [3]
    assert found(render, JobFilter(duplicates="recipe")) == [0, 2]
    assert found(render, JobFilter(duplicates="recipe", seed=two.seed)) == []
    assert found(other, JobFilter(duplicates="recipe")) == found(other, JobFilter(duplicates="pixels")) == []
