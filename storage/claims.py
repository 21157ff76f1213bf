"""What submitters and workers hand to the moves of jobs, and what they get."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.spec import Spec
from storage.states import Priority


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """One job as its worker holds it: `fence` is the proof that every later write must name."""

    id: int
    render_id: str
    index: int
    spec: Spec
    fence: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The jobs of one batch, in the queue's order, and the priority of what still waits for this model."""

    jobs: tuple[Claimed, ...]
    next_priority: Priority | None

    @property
    def batch_id(self) -> str:
        """Names this claim and no other: a job is claimed with one fence once."""
        return f"{self.jobs[0].id}.{self.jobs[0].fence}"


@dataclass(frozen=True, kw_only=True)
class Once:
    """What makes two requests of an owner the same: the name that the caller gives them, and what they ask for."""

    key: str
    request_hash: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """A picture that is safely in the object store."""

    job: Claimed
    object: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class RenderedBatch:
    """What was rendered together, with what (`recipe`: versions, device, dtype, …), and for how long."""

    id: str
    worker: str
    model: str
    jobs: tuple[Claimed, ...]
    recipe: Mapping[str, Any]
    render_seconds: float
