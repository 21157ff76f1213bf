"""The values that submitters and workers pass to the moves of jobs, and those that they get."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from storage.access.keys import Limits
from storage.rules.ids import batch_id, job_id
from storage.rules.render_times import RenderTimes
from storage.rules.states import Priority
from storage.spec.kinds import SpecKind
from storage.spec.picture import Spec


class NewJob(NamedTuple):
    """One picture as it is submitted: what to render, and the caller's name and labels for it."""

    spec: Spec
    #: Unique within its render.
    custom_id: str | None = None
    #: Carried through to exports.
    labels: Mapping[str, Any] | None = None
    #: Whether its model denoises by slots (`storage.spec.slots`): it then waits with all that can be denoised with it.
    by_slots: bool = False
    #: What `spec` is one of, if that is known.
    kind: SpecKind | None = None


@dataclass(frozen=True, kw_only=True)
class ClaimedJob:
    """One job as its worker holds it; every later write must present its `fence`."""

    id: int
    render_id: str
    index: int
    spec: Spec
    fence: int
    attempt: int
    #: Whether a client follows its events.
    watched: bool = False
    priority: Priority = Priority.NORMAL
    #: By how many threads of a CPU it is to be rendered; None: by as many as its worker likes.
    threads: int | None = None
    #: By which calls of the model it is to be made (JSON of `worker.rendering.backend.Replay`); None: as it comes.
    replay: str | None = None
    #: Whether a process died with it: nothing else is to be at the device beside it.
    suspect: bool = False
    #: Whether it is rendered with the jobs of its claim alone, in one pipeline call.
    together: bool = False

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
    """What makes two requests of an owner the same: the idempotency key, and a hash of the content."""

    name: str
    request_hash: str


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where to send a render's events, and which kinds of them (`storage.events.log.EventKind`)."""

    url: str
    events: tuple[str, ...]
    #: In which form it is told (`storage.events.webhooks`); None: the farm's own.
    form: str | None = None
    #: How its submitter reaches the API, for addresses of pictures; None: unknown.
    api_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Who submits a render, and how."""

    owner: str
    priority: Priority
    #: Batch these jobs only with one another.
    together: bool = False
    #: Render them by so many threads, on a CPU: the last bit of a picture can depend on that.
    threads: int | None = None
    #: Make them by these calls of the model (JSON of `worker.rendering.backend.Replay`), for the same bits as before.
    replay: str | None = None
    #: Accept it only once under this key; a repeated request gets the first render.
    once: Idempotency | None = None
    #: The API key that it was submitted with.
    key_id: str | None = None
    #: That key's.
    limits: Limits = field(default_factory=Limits)
    #: Record its events, for clients that follow them (`storage.events.log`).
    watched: bool = False
    #: Keep it out of the queue until it is released.
    held: bool = False
    #: When it may be rendered; held until then (`scheduler.cron.windows`). None: at any time.
    times: RenderTimes | None = None
    #: Only for watched renders.
    webhook: Webhook | None = None
    #: What its owner calls it, and says of it (`storage.rules.names`).
    name: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A picture that is in the object store."""

    job: ClaimedJob
    object: str
    sha256: str
    bytes: int
    #: Of its pixels (`storage.objects.pixels`): files of equal pictures differ in what they say about their making.
    pixels_sha256: str | None = None
    #: What is to be said of it, such as which words the model does not read.
    remarks: tuple[str, ...] = ()
    #: As `RenderedBatch.own_recipes`.
    own_recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RenderedBatch:
    """What was handed over together, with what it was made (`recipe`: versions, device, dtype, …), for how long."""

    id: str
    worker: str
    model: str
    jobs: tuple[ClaimedJob, ...]
    recipe: Mapping[str, Any]
    #: Of the device, for these pictures alone.
    render_seconds: float
    #: From the first of their steps to the last, where others were denoised beside them; None: as long as the above.
    elapsed_seconds: float | None = None
    #: From then until they were stored; None: unknown.
    store_seconds: float | None = None
    #: By the id of its job, what is to be said of a picture.
    remarks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    #: By the id of its job, what a recipe says beside the common one: by which calls of the model the picture was made.
    own_recipes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
