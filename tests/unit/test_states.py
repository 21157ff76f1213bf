from functools import partial

import pytest

from storage.rules.states import FINAL, TRANSITIONS, Priority, State, Transition, render_state

QUEUED, HELD, RUNNING, DONE, FAILED, CANCELLED = State

#: What each event makes of a job in each state; None: nothing, the event comes too late or too early.
EXPECTED: dict[Transition, dict[State, State | None]] = {
    Transition.CLAIM: {QUEUED: RUNNING, HELD: None, RUNNING: None, DONE: None, FAILED: None, CANCELLED: None},
    Transition.COMPLETE: {QUEUED: None, HELD: None, RUNNING: DONE, DONE: None, FAILED: None, CANCELLED: None},
    Transition.FAIL: {QUEUED: None, HELD: None, RUNNING: FAILED, DONE: None, FAILED: None, CANCELLED: None},
    Transition.REQUEUE: {QUEUED: None, HELD: None, RUNNING: QUEUED, DONE: None, FAILED: None, CANCELLED: None},
    Transition.HOLD: {QUEUED: HELD, HELD: None, RUNNING: None, DONE: None, FAILED: None, CANCELLED: None},
    Transition.RELEASE: {QUEUED: None, HELD: QUEUED, RUNNING: None, DONE: None, FAILED: None, CANCELLED: None},
    Transition.CANCEL: {
        QUEUED: CANCELLED,
        HELD: CANCELLED,
        RUNNING: CANCELLED,
        DONE: None,
        FAILED: None,
        CANCELLED: None,
    },
    Transition.RETRY: {QUEUED: None, HELD: None, RUNNING: None, DONE: None, FAILED: QUEUED, CANCELLED: None},
}


@pytest.mark.parametrize("event", Transition)
@pytest.mark.parametrize("state", State)
def test_a_job_moves_as_the_table_says_and_not_otherwise(state: State, event: Transition) -> None:
    before, after = TRANSITIONS[event]
    assert (after if state in before else None) == EXPECTED[event][state]


def test_a_final_state_is_left_only_when_a_person_asks() -> None:
    leaving = {event for event, (before, _) in TRANSITIONS.items() if before & FINAL}
    assert leaving == {Transition.RETRY}
    assert {QUEUED, HELD, RUNNING} == set(State) - FINAL


def test_priorities_are_served_from_zero_as_redis_does() -> None:
    assert [*Priority] == [0, 1, 2]
    assert Priority.INTERACTIVE < Priority.NORMAL < Priority.BULK


@pytest.mark.parametrize(
    ("total", "done", "failed", "cancelled", "state"),
    [
        (3, 0, 0, 0, "waiting"),
        (3, 2, 0, 0, "waiting"),
        (3, 1, 1, 0, "waiting"),
        (3, 0, 0, 2, "waiting"),
        (3, 3, 0, 0, "done"),
        (3, 2, 1, 0, "failed"),
        (3, 0, 3, 0, "failed"),
        (3, 1, 1, 1, "failed"),
        (3, 2, 0, 1, "cancelled"),
        (3, 0, 0, 3, "cancelled"),
        (1, 1, 0, 0, "done"),
    ],
)
def test_a_render_is_what_its_counters_say(total: int, done: int, failed: int, cancelled: int, state: str) -> None:
    of = partial(render_state, total=total, done=done, failed=failed, cancelled=cancelled)
    assert of() == state
    # While it is unfinished, what is on a device and what is held says the rest.
    unfinished = state == "waiting"
    assert of(running=True) == ("running" if unfinished else state)
    assert of(running=True, held=True) == ("held" if unfinished else state)
