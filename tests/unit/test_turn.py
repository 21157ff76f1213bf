"""When a worker stays with a model, when it makes way, and whom it serves between two calls."""

import threading
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from storage.jobs.values import Claim, ClaimedJob
from storage.rules.states import Priority
from storage.spec.models import Model
from tests.unit.slot_stage import MODEL, FakeModel, Queue, Stage, job
from worker.rendering.backend import LoadedModel
from worker.serving.claims_ahead import ClaimsAhead
from worker.serving.help_call import HelpCall
from worker.serving.turn import Turn, stays

INTERACTIVE, NORMAL, BULK = Priority.INTERACTIVE, Priority.NORMAL, Priority.BULK


@pytest.mark.parametrize(
    ("elapsed", "here", "elsewhere", "expected"),
    [
        (5, NORMAL, {}, True),
        (500, NORMAL, {}, True),  # nobody else waits
        (5, NORMAL, {"b": NORMAL}, True),
        (5, NORMAL, {"b": BULK, "c": NORMAL}, True),
        (30, NORMAL, {"b": NORMAL}, False),  # time is over
        (30, INTERACTIVE, {"b": BULK}, False),  # for anyone who waits: affinity starves nobody
        (5, NORMAL, {"b": BULK, "c": INTERACTIVE}, False),  # something more urgent waits
        (5, BULK, {"b": NORMAL}, False),
        (500, None, {"b": INTERACTIVE}, True),  # nothing left here: the next claim ends the turn
    ],
)
def test_a_turn_goes_on_unless_others_are_due(
    elapsed: float, here: Priority | None, elsewhere: Mapping[str, Priority], expected: bool
) -> None:
    assert stays(elapsed=elapsed, turn_seconds=30, waiting_here=here, waiting_elsewhere=elsewhere) is expected


@pytest.fixture
def stage() -> Stage:
    return Stage()


def turn_of(stage: Stage, models: object) -> Turn:
    class Tickets:
        def publish(self, model: str, priority: Priority) -> None:
            del model
            stage.tickets.append(priority)

    return Turn(
        context=stage.context(),
        served=["m", "n"],
        turn_seconds=30,
        load_seconds=30,
        tickets=cast("Any", Tickets()),
        quarantines=cast("Any", SimpleNamespace(quarantine_of=lambda *_: None)),
        models=cast("Any", models),
        help=HelpCall(stage.queue, None, start_seconds=1),
        ahead=ClaimsAhead(stage.queue, worker="w", served=["m", "n"]),
        stopping=threading.Event(),
    )


def test_others_are_called_before_the_model_is_loaded(stage: Stage) -> None:
    stage.queue.add(*(job(number, 5) for number in range(1, 10)))
    called_at_load: list[int] = []

    class Models:
        aliases = ()

        def get(self, model: Model) -> LoadedModel:
            called_at_load.append(len(stage.tickets))
            raise StopIteration(model.alias)

    with pytest.raises(StopIteration):
        turn_of(stage, Models()).run(MODEL)
    assert called_at_load == [1]


@pytest.mark.parametrize("suspect", [False, True])
def test_between_two_calls_another_model_makes_what_is_urgent_but_no_suspect(stage: Stage, *, suspect: bool) -> None:
    """A suspect is given back: what has begun is finished first, so that it does not die with it."""
    other = FakeModel()

    class Queues(Queue):
        urgent: ClassVar = [job(99, 3, INTERACTIVE, suspect=suspect)]

        def claim(self, *, model: str, worker: str, limit: int) -> Claim | None:
            if model == "m":
                return super().claim(model=model, worker=worker, limit=limit)
            assert limit == 1
            return Claim(jobs=(self.urgent.pop(),), next_priority=None)

        def give_back(self, claimed: Sequence[ClaimedJob]) -> int:
            self.given_back += [one.id for one in claimed]
            return len(claimed)

        def best_waiting(self, models: Sequence[str]) -> Mapping[str, Priority]:
            return {**super().best_waiting(models), **({"n": INTERACTIVE} if self.urgent else {})}

        def waiting(self, model: str, priority: Priority, *, at_most: int) -> int:
            return len(self.urgent) if model == "n" else super().waiting(model, priority, at_most=at_most)

    class Models:
        aliases = ("m", "other")

        def get(self, model: Model) -> LoadedModel:
            return cast("LoadedModel", stage.model if model.alias == "m" else other)

        def loaded(self, alias: str) -> Model:
            return MODEL.model_copy(update={"alias": alias})

    stage.queue = Queues()
    stage.queue.add(job(1, 30), job(2, 30))
    stage.model.before = lambda _: time.sleep(0.02)
    between: list[int] = []
    other.before = lambda _: between.append(len(stage.model.ticks))
    assert turn_of(stage, Models()).run(MODEL) == 2
    assert stage.calls_of() == {1: 30, 2: 30}
    if suspect:
        assert (stage.queue.given_back, between) == ([99], [])
    else:
        assert sorted(stage.queue.done) == [1, 2, 99]
        assert len(between) == 3
        assert 0 < between[0] == between[-1] < 30
