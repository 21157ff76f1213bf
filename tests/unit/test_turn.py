"""When a worker stays with a model and when it makes way."""

from collections.abc import Mapping

import pytest

from storage.rules.states import Priority
from worker.serving.turn import stays

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
