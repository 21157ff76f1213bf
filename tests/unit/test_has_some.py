"""Whether a render has jobs in a state, by its counters."""

import pytest

from scheduler.api.list_queries import has_some
from storage.renders.views import RenderView
from storage.rules.states import Priority, State


@pytest.mark.parametrize(
    ("counters", "some"),
    [
        ({"done": 3}, {State.DONE}),
        ({"done": 2, "failed": 1}, {State.DONE, State.FAILED}),
        ({"cancelled": 3}, {State.CANCELLED}),
        ({"done": 1}, {State.DONE, State.QUEUED, State.RUNNING, State.HELD}),
    ],
)
def test_no_job_is_looked_for_where_the_counters_say_that_there_is_none(
    counters: dict[str, int], some: set[State]
) -> None:
    told = {"done": 0, "failed": 0, "cancelled": 0, **counters}
    times = {"created_at": 0.0, "finished_at": None}
    render = RenderView(id="r", owner="ann", priority=Priority.NORMAL, total=3, **told, **times)  # type: ignore[arg-type]
    assert {state for state in State if has_some(render, state)} == some
    assert has_some(render, None)
