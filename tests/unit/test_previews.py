"""Previews on their way: made for those who watch, seldom enough, and never at a picture's expense."""

import io
from collections.abc import Collection, Iterable, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.broker.previews import Preview
from storage.errors import BrokerProblem, OutOfMemory
from storage.jobs.values import Claim
from storage.rules.states import Priority
from tests.unit.slot_stage import MODEL, Stage, job
from worker.rendering.backend import NoPreview, SmallPictures
from worker.serving.batch import Batch
from worker.serving.preview_budget import SHARE, PreviewBudget
from worker.serving.previews import BatchLooks, PreviewMaker, Shown


class Carrier:
    """What somebody watches, and what reached them."""

    def __init__(self, *watched: str) -> None:
        self.names = set(watched)
        self.put_there: list[Preview] = []
        self.away = False

    def watched(self, names: Collection[str]) -> set[str]:
        if self.away:
            raise BrokerProblem("gone")
        return self.names & set(names)

    def put(self, previews: Iterable[Preview]) -> None:
        self.put_there += previews


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """One by its own clock."""
    stage = Stage()
    for module in ("denoising", "claims_ahead"):
        monkeypatch.setattr(f"worker.serving.{module}.time", SimpleNamespace(monotonic=lambda: stage.now))
    return stage


def watching(stage: Stage, carrier: Carrier) -> PreviewMaker:
    """Have the stage's worker carry before each call, of ten seconds, what it looked at after the one before."""
    previews = stage.previews = PreviewMaker(carrier, pause_seconds=0)

    def before(_: list[int]) -> None:
        stage.takes(10)
        if not carrier.away:
            previews.carry_once(carrier)

    stage.model.before = before
    return previews


def test_nothing_is_looked_at_that_nobody_watches(stage: Stage) -> None:
    carrier = Carrier("another-000001")
    watching(stage, carrier)
    stage.queue.add(job(1, 6), job(2, 6))
    assert stage.run() == 2
    assert stage.model.looked_at == []
    assert carrier.put_there == []


def test_who_watches_a_picture_sees_its_steps_and_nothing_of_its_neighbours(stage: Stage) -> None:
    carrier = Carrier("r-000002")
    watching(stage, carrier)
    stage.queue.add(job(1, 6), job(2, 6))
    assert stage.run() == 2
    assert stage.model.looked_at
    assert {seed for seeds in stage.model.looked_at for seed in seeds} == {2}
    assert {(one.job, one.attempt, one.steps) for one in carrier.put_there} == {("r-000002", 1, 6)}
    steps = [one.step for one in carrier.put_there]
    # The last one is the picture itself; the first ones went by before it was known that somebody watches.
    assert steps == sorted(set(steps))
    assert 0 < steps[0] <= steps[-1] < 6
    with Image.open(io.BytesIO(carrier.put_there[0].image)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (8, 8))


def test_who_watches_a_render_sees_all_its_pictures(stage: Stage) -> None:
    carrier = Carrier("r")
    watching(stage, carrier)
    stage.queue.add(job(1, 9), job(2, 9))
    stage.run()
    assert {one.job for one in carrier.put_there} == {"r-000001", "r-000002"}


def test_pictures_of_a_batch_are_seen_too(stage: Stage) -> None:
    carrier = Carrier("r-000002")
    previews = stage.previews = PreviewMaker(carrier, pause_seconds=0)
    jobs = (job(1, 4), job(2, 4))
    seen: list[list[int]] = []

    def look(places: Sequence[int]) -> SmallPictures:
        seen.append([*places])
        return SmallPictures(fetch=lambda: ([Image.new("RGB", (8, 8))], 0.0))

    looks = BatchLooks(previews, jobs, steps=4)
    for _ in range(4):
        previews.carry_once(carrier)
        looks([0, 1], look)
    assert seen
    assert {place for places in seen for place in places} == {1}


def test_a_batch_leaves_nothing_in_hand(stage: Stage) -> None:
    carrier = Carrier("r")
    previews = stage.previews = PreviewMaker(carrier, pause_seconds=0)
    jobs = (job(1, 4),)
    Batch(claim=Claim(jobs=jobs, next_priority=None), model=MODEL, context=stage.context()).run(stage.model)
    assert previews._held == {}


def test_it_is_said_why_a_picture_cannot_be_seen_and_not_tried_at_every_step(stage: Stage) -> None:
    def lacks(_: list[int]) -> None:
        raise NoPreview("it is not known how its latents look")

    carrier = Carrier("r-000001")
    watching(stage, carrier)
    stage.model.looking = lacks
    stage.queue.add(job(1, 9))
    assert stage.run() == 1
    assert [(one.why_none, one.image) for one in carrier.put_there] == [("it is not known how its latents look", b"")]


def test_a_preview_that_fails_fails_no_picture_and_is_not_tried_again_at_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[list[int]] = []

    def fails(seeds: list[int]) -> None:
        tried.append(seeds)
        raise OutOfMemory("no room for a decoder")

    carrier = Carrier("r")
    watching(stage, carrier)
    stage.model.looking = fails
    stage.queue.add(job(1, 9), job(2, 9, Priority.BULK))
    assert stage.run() == 2
    assert stage.queue.faults == {}
    assert len(tried) == 1
    assert "no room for a decoder" in str(carrier.put_there[0].why_none)
    assert [record.message for record in caplog.records].count("no previews for a while") == 1


def test_without_a_broker_pictures_are_made_all_the_same(stage: Stage) -> None:
    carrier = Carrier("r")
    carrier.away = True
    previews = watching(stage, carrier)
    stage.queue.add(job(1, 6))
    assert stage.run() == 1
    previews.called([Shown(job=job(1, 6), step=1, steps=6)], 1.0, lambda _: stage.model.preview([]))
    with pytest.raises(BrokerProblem):
        previews.carry_once(carrier)


@given(
    calls=st.lists(st.floats(1e-4, 2), min_size=1, max_size=200),
    cost=st.floats(1e-5, 1),
    watched=st.integers(1, 8),
)
def test_previews_take_a_fiftieth_of_the_time_at_most(calls: list[float], cost: float, watched: int) -> None:
    budget, took, most = PreviewBudget(), 0.0, 0.0
    for seconds in calls:
        budget.called(seconds, watched=watched)
        if n := budget.affords(watched):
            budget.made(cost * n, n)
            took += cost * n
            # The first one tells what they cost.
        most += seconds
    assert took <= SHARE * most + cost + 1e-9


def test_what_costs_little_is_seen_at_every_step_and_what_costs_much_at_every_kth() -> None:
    def seen(cost: float) -> list[int]:
        budget, at = PreviewBudget(), []
        for step in range(1, 101):
            budget.called(1.0, watched=1)
            if budget.affords(1):
                budget.made(cost, 1)
                at.append(step)
        return at

    assert len(seen(0.01)) == 100
    assert 9 <= len(seen(0.2)) <= 11
    assert len(seen(3.0)) == 1
