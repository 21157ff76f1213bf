"""Routes for those who keep the farm running: the backlog, device time, faults, quarantines and keys."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from scheduler.api.access import CanAdminister, CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import RESPONSES, Refused
from scheduler.results.backlog import BacklogForm, backlog
from storage.access.keys import Key, Keys, Limits, Role
from storage.errors import NotFound
from storage.fleet.fault_log import FaultCount, FaultLog, FaultView, Quarantine
from storage.renders.device_time import device_time
from storage.rules.times import Time, rfc3339

_DAY_SECONDS = 86400.0
_MOST_SECONDS = 3650 * _DAY_SECONDS
#: Of limits: BIGINT.
_MOST = 2**62

router = APIRouter(prefix="/v1", responses=RESPONSES, tags=["farm"], route_class=JsonRoute)


_Since = Annotated[
    float, Query(gt=0, le=_MOST_SECONDS, allow_inf_nan=False, description="Of the last so many seconds.")
]


class DeviceTimeForm(BaseModel):
    """Report how long devices rendered for an owner."""

    owner: str = Field(description="Whose pictures they are.")
    pictures: int = Field(description="How many were rendered.")
    seconds: float = Field(description="How long devices rendered them, together.")


class FaultCountForm(BaseModel):
    """Count the faults of a class that a worker met with a model."""

    fault: str = Field(description="The class.")
    model: str | None = Field(description="With which model, by alias; null: with none.")
    worker: str | None = Field(description="Who met it; null: nobody in particular.")
    times: int = Field(description="How often.")
    jobs: int = Field(description="How many jobs it met.")
    last_at: float = Field(description="When the last one was, seconds since 1970.")
    last_time: Time = Field(description="The same as text (RFC 3339).")

    @classmethod
    def of(cls, count: FaultCount) -> "FaultCountForm":
        """Return the form of a count."""
        return cls(**asdict(count), last_time=rfc3339(count.last_at))


class FaultForm(BaseModel):
    """Describe a fault that a job met."""

    at: float = Field(description="When, seconds since 1970.")
    time: Time = Field(description="The same as text (RFC 3339).")
    fault: str = Field(description="Its class.")
    model: str | None = Field(description="With which model, by alias.")
    worker: str | None = Field(description="Who met it.")
    job: str | None = Field(description="The job; null: none, or one that was deleted.")
    attempt: int | None = Field(description="Which attempt of the job it was.")
    message: str = Field(description="What it said.")

    @classmethod
    def of(cls, fault: FaultView) -> "FaultForm":
        """Return the form of a fault."""
        return cls(**asdict(fault), time=rfc3339(fault.at))


class QuarantineForm(BaseModel):
    """Describe a quarantine that is in force."""

    worker: str = Field(description="Who renders nothing.")
    model: str | None = Field(description="Of this model alone, by alias; null: of any.")
    since: float = Field(description="Since when, seconds since 1970.")
    seconds_left: float = Field(description="For how long, unless somebody ends it.")
    reason: str = Field(description="What led to it.")

    @classmethod
    def of(cls, quarantine: Quarantine) -> "QuarantineForm":
        """Return the form of a quarantine."""
        return cls(**asdict(quarantine))


class FaultsAnswer(BaseModel):
    """Report the faults of some time, and the quarantines that they led to."""

    counts: list[FaultCountForm] = Field(description="The most recent first.")
    latest: list[FaultForm] = Field(description="One by one, newest first.")
    quarantines: list[QuarantineForm] = Field(description="Those in force now.")


class ReleasedAnswer(BaseModel):
    """Report the end of quarantines."""

    worker: str = Field(description="Who may render again.")
    released: int = Field(description="How many quarantines this call has ended.")


class KeyLimits(BaseModel):
    """Say how much the holder of a key may submit; what is left out is unlimited."""

    model_config = ConfigDict(extra="forbid")

    queued: int | None = Field(None, ge=1, le=_MOST, description="Pictures that wait or run at once.")
    per_day: int | None = Field(None, ge=1, le=_MOST, description="Pictures accepted within any 24 hours.")
    per_minute: int | None = Field(None, ge=1, le=_MOST, description="Submissions a minute.")
    work: int | None = Field(None, ge=1, le=_MOST, description="Pixels × steps of one picture.")
    uploads: int | None = Field(None, ge=1, le=_MOST, description="Uploads that are kept at once.")
    upload_bytes: int | None = Field(None, ge=1, le=_MOST, description="Bytes of uploads that are kept at once.")


class KeyBody(BaseModel):
    """Say what key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$", description="What it is for.")
    owner: str = Field(min_length=1, max_length=64, description="Whose renders it submits and sees.")
    role: Role = Field(Role.SUBMIT, description="What it may do; each role may do what those before it may.")
    expires_in: float | None = Field(
        None, gt=0, le=_MOST_SECONDS, allow_inf_nan=False, description="Seconds until it expires; null: never."
    )
    limits: KeyLimits = Field(default_factory=KeyLimits, description="How much its holder may submit.")


class KeyForm(BaseModel):
    """Describe a key, without its secret."""

    id: str = Field(description="How addresses and commands name it.")
    name: str = Field(description="What it is for.")
    owner: str = Field(description="Whose renders it submits and sees.")
    role: Role = Field(description="What it may do.")
    limits: KeyLimits = Field(description="How much its holder may submit.")
    created_at: float = Field(description="When it was made, seconds since 1970.")
    expires_at: float | None = Field(description="When it expires; null: never.")
    revoked_at: float | None = Field(description="When it was revoked; null: it was not.")

    @classmethod
    def of(cls, key: Key) -> "KeyForm":
        """Return the form of a key."""
        return cls(
            **{name: getattr(key, name) for name in cls.model_fields if name != "limits"},
            limits=KeyLimits.model_construct(**asdict(key.limits)),
        )


class NewKeyAnswer(KeyForm):
    """Describe a key that was just made."""

    key: str = Field(description="The key itself: it is told this once.")


@router.get("/backlog")
def get_backlog(context: Context, caller: CanRead) -> list[BacklogForm]:
    """Return what is left of your renders, and how long it takes; with an admin key, of every owner's."""
    return backlog(context.services, owner=caller.sees)


@router.get("/device-time")
def get_device_time(
    context: Context, caller: CanRead, response: Response, since: _Since = _DAY_SECONDS
) -> list[DeviceTimeForm]:
    """Return how long devices rendered your pictures; with an admin key, every owner's.

    Each picture of a batch counts for an equal part of its time; pictures that were deleted since count for nobody.
    At most the farm's last 86,400 batches are read (a day of one each second): what is older than these is left out,
    and the answer's header `Read-Since` says since when it was read; without that header, nothing was left out.
    """
    found = device_time(context.services.database, within_seconds=since, owner=caller.sees)
    if found.read_since is not None:
        response.headers["Read-Since"] = str(rfc3339(found.read_since))
    return [
        DeviceTimeForm(owner=one.owner, pictures=one.pictures, seconds=round(one.seconds, 3)) for one in found.owners
    ]


@router.get("/faults")
def list_faults(
    context: Context,
    _caller: CanAdminister,
    since: _Since = _DAY_SECONDS,
    limit: Annotated[int, Query(ge=0, le=1000, description="How many to list one by one.")] = 50,
) -> FaultsAnswer:
    """Count recent faults by class, model and worker, list the latest, and the quarantines; needs an admin key."""
    log = FaultLog(context.services.database)
    return FaultsAnswer(
        counts=[FaultCountForm.of(count) for count in log.counts(within_seconds=since)],
        latest=[FaultForm.of(fault) for fault in log.latest(within_seconds=since, limit=limit)],
        quarantines=[QuarantineForm.of(one) for one in log.quarantines()],
    )


@router.post("/workers/{worker}/release")
def release_worker(
    context: Context,
    worker: Annotated[str, Path(max_length=128, description="The name of a worker.")],
    _caller: CanAdminister,
) -> ReleasedAnswer:
    """End the quarantines of a worker; needs an admin key. Idempotent."""
    log = FaultLog(context.services.database)
    if worker not in {one.name for one in context.workers.all()} | {one.worker for one in log.quarantines()}:
        raise NotFound(f"no worker named {worker[:60]!r}; GET /v1/workers lists them")
    return ReleasedAnswer(worker=worker, released=log.end_quarantines(worker))


@router.get("/keys")
def list_keys(context: Context, _caller: CanAdminister) -> list[KeyForm]:
    """List all keys, oldest first, without their secrets; needs an admin key."""
    return [KeyForm.of(key) for key in Keys(context.services.database).all()]


@router.post("/keys", status_code=201)
def make_key(context: Context, body: KeyBody, caller: CanAdminister) -> NewKeyAnswer:
    """Make a key; needs an admin key. The first one is made by `farm keys create`."""
    if caller.key_id is None:
        # It would shut everybody else out, and whoever reaches an open farm is no admin of it yet.
        words = "the first key is made by `farm keys create`, on a machine of the farm; with it, others are made here"
        raise Refused(403, words, code=ProblemCode.ROLE_REQUIRED)
    key, secret = Keys(context.services.database).create(
        name=body.name,
        owner=body.owner,
        role=body.role,
        limits=Limits(**body.limits.model_dump()),
        seconds=body.expires_in,
    )
    return NewKeyAnswer(**KeyForm.of(key).__dict__, key=secret)


@router.delete("/keys/{key_id}")
def revoke_key(
    context: Context,
    key_id: Annotated[str, Path(pattern="^[0-9a-z]{1,32}$", description="Such as `k7m2p9x4tq8z`.")],
    _caller: CanAdminister,
) -> KeyForm:
    """Revoke a key, and end all that is open with it; needs an admin key. Idempotent."""
    keys = Keys(context.services.database)
    keys.revoke(key_id)
    return next(KeyForm.of(key) for key in keys.all() if key.id == key_id)
