"""The states of a job and the one table of legal moves between them.

Each move is a single guarded UPDATE (`storage.jobs.jobs`): zero rows changed means that somebody else was first.
"""

from enum import IntEnum, StrEnum


class State(StrEnum):
    QUEUED = "queued"
    #: Kept out of the queue until it is released.
    HELD = "held"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    GIVE_BACK = "give back"
    HOLD = "hold"
    RELEASE = "release"
    CANCEL = "cancel"
    RETRY = "retry"


#: event → (states it may leave, state it leads to)
MOVES: dict[Event, tuple[frozenset[State], State]] = {
    Event.CLAIM: (frozenset({State.QUEUED}), State.RUNNING),
    Event.COMPLETE: (frozenset({State.RUNNING}), State.DONE),
    Event.FAIL: (frozenset({State.RUNNING}), State.FAILED),
    Event.GIVE_BACK: (frozenset({State.RUNNING}), State.QUEUED),
    Event.HOLD: (frozenset({State.QUEUED}), State.HELD),
    Event.RELEASE: (frozenset({State.HELD}), State.QUEUED),
    Event.CANCEL: (frozenset({State.QUEUED, State.HELD, State.RUNNING}), State.CANCELLED),
    Event.RETRY: (frozenset({State.FAILED}), State.QUEUED),
}

#: A job in one of these is counted by its render and moves no more (but for a retry asked for by a person).
FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Priority(IntEnum):
    """Lower is served first, in rows and in Redis alike (Celery on Redis serves priority 0 first)."""

    INTERACTIVE = 0
    NORMAL = 1
    BULK = 2


def render_state(*, total: int, done: int, failed: int, cancelled: int, held: bool = False) -> str:
    """The state of a whole render, read from its counters: running, or held, until every job is final."""
    if done + failed + cancelled < total:
        return "held" if held else "running"
    if failed:
        return "failed"
    return "cancelled" if cancelled else "done"
