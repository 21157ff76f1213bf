"""The states of a job and the one table of legal moves between them.

Each move is a single guarded UPDATE (`storage.jobs.jobs`): zero rows changed means that another process was first.
"""

from enum import IntEnum, StrEnum
from typing import Literal, get_args


class State(StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    #: Out of the queue until it is released.
    HELD = "held"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Transition(StrEnum):
    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    REQUEUE = "requeue"
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"
    RETRY = "retry"


#: event → (states it may leave, state it leads to)
TRANSITIONS: dict[Transition, tuple[frozenset[State], State]] = {
    Transition.CLAIM: (frozenset({State.QUEUED}), State.RUNNING),
    Transition.COMPLETE: (frozenset({State.RUNNING}), State.DONE),
    Transition.FAIL: (frozenset({State.RUNNING}), State.FAILED),
    Transition.REQUEUE: (frozenset({State.RUNNING}), State.QUEUED),
    Transition.HOLD: (frozenset({State.QUEUED}), State.HELD),
    Transition.RELEASE: (frozenset({State.HELD}), State.QUEUED),
    Transition.CANCEL: (frozenset({State.QUEUED, State.HELD, State.RUNNING}), State.CANCELLED),
    Transition.RETRY: (frozenset({State.FAILED}), State.QUEUED),
}

#: A job in one of these is counted by its render and moves no more, unless a person retries it.
FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Priority(IntEnum):
    """Lower is served first, in rows and in Redis alike (Celery on Redis serves priority 0 first)."""

    INTERACTIVE = 0
    NORMAL = 1
    BULK = 2


#: How a render stands.
RenderState = Literal["waiting", "running", "held", "done", "failed", "cancelled"]
RENDER_STATES: tuple[RenderState, ...] = get_args(RenderState)
PriorityName = Literal["interactive", "normal", "bulk"]
#: Priority → its name in JSON.
PRIORITY_NAMES: dict[Priority, PriorityName] = {
    Priority.INTERACTIVE: "interactive",
    Priority.NORMAL: "normal",
    Priority.BULK: "bulk",
}


def render_state(
    *, total: int, done: int, failed: int, cancelled: int, held: bool = False, running: bool = False
) -> RenderState:
    """Return the state of a whole render, from its counters.

    Until every job is final it is held, or running while one of its jobs is (`running`), or else waiting.
    """
    if done + failed + cancelled < total:
        return "held" if held else "running" if running else "waiting"
    if failed:
        return "failed"
    return "cancelled" if cancelled else "done"
