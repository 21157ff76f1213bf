"""What submitters and workers hand to the moves of jobs, and what they get."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.rules.ids import batch_id, job_id
from storage.rules.states import Priority
from storage.spec.picture import Spec


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """One picture as it is submitted: what to render, and what the caller calls it and says of it."""

    spec: Spec
    #: Unique within its render.
    custom_id: str | None = None
    #: Carried through to exports.
    labels: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ClaimedJob:
    """One job as its worker holds it: `fence` is the proof that every later write must name."""

    id: int
    render_id: str
    index: int
    spec: Spec
    fence: int
    attempt: int
    #: Whether somebody follows what happens to it.
    watched: bool = False

    @property
    def name(self) -> str:
        """The name that people use: `<render>-<index>`."""
        return job_id(self.render_id, self.index)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The jobs of one batch, in the queue's order, and the priority of what still waits for this model."""

    jobs: tuple[ClaimedJob, ...]
    next_priority: Priority | None

    @property
    def batch_id(self) -> str:
        """Names this claim and no other."""
        return batch_id(self.jobs[0].id, self.jobs[0].fence)


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """What makes two requests of an owner the same: the name that the caller gives them, and what they ask for."""

    name: str
    request_hash: str


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where to tell what happens to a render, and which kinds of events (`storage.events.log.Kind`)."""

    url: str
    events: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Who submits a render, and how."""

    owner: str
    priority: Priority
    #: Batch these jobs with one another only, never with strangers.
    together: bool = False
    #: Accept it only once under this name; again, the answer is the first render.
    once: Idempotency | None = None
    #: The API key that it came with.
    key_id: str | None = None
    #: Write down what happens to it, for those who follow (`storage.events.log`).
    watched: bool = False
    #: Keep it out of the queue until it is released.
    held: bool = False
    #: Only of watched ones.
    webhook: Webhook | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A picture that is safely in the object store."""

    job: ClaimedJob
    object: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class RenderedBatch:
    """What was rendered together, with what (`recipe`: versions, device, dtype, …), and for how long."""

    id: str
    worker: str
    model: str
    jobs: tuple[ClaimedJob, ...]
    recipe: Mapping[str, Any]
    render_seconds: float
