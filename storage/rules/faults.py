"""The classes of faults, and what each leads to. Decisions only: `storage.jobs.recovery` carries them out.

An attempt is counted against a job where the job may be at fault, a fault against a worker where the worker may be.
So a poison job fails after a few attempts, a bad worker is quarantined, and neither takes the other down.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from storage.rules.states import Transition


class Fault(StrEnum):
    """A class of fault; its value is what people read."""

    OUT_OF_MEMORY = "out of memory"
    BROKEN_DEVICE = "broken device"
    BAD_SPECIFICATION = "bad specification"
    BAD_PICTURE = "bad picture"
    BAD_WEIGHTS = "bad weights"
    PIPELINE_ERROR = "pipeline error"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker died"
    LOST_LEASE = "lost lease"
    STORE_AWAY = "store away"
    DATABASE_AWAY = "database away"
    BROKER_AWAY = "broker away"


class When(Enum):
    NEVER = auto()
    ALWAYS = auto()
    #: If no other worker could do better.
    NOBODY_ELSE = auto()
    #: If the job was rendered alone, so that nothing else can be at fault.
    ALONE = auto()


class Scope(StrEnum):
    """What of a worker a fault counts against."""

    NOTHING = "nothing"
    MODEL = "model"
    DEVICE = "device"


@dataclass(frozen=True, kw_only=True)
class Reaction:
    #: Whether the job fails for good at once.
    final: When = When.NEVER
    #: Whether the attempt is counted against the job.
    burns: When = When.ALWAYS
    #: Whether the job is rendered alone from now on: one of its batch may have killed the others.
    alone: bool = False
    #: Whether another worker is given the first chance.
    elsewhere: bool = False
    against: Scope = Scope.NOTHING


REACTIONS: dict[Fault, Reaction] = {
    # After the worker has halved its batch down to one and saved what memory it can: only a larger device helps.
    Fault.OUT_OF_MEMORY: Reaction(final=When.NOBODY_ELSE, elsewhere=True),
    # Every later call in that process fails.
    Fault.BROKEN_DEVICE: Reaction(burns=When.NEVER, elsewhere=True, against=Scope.DEVICE),
    # It fails the same way everywhere and always.
    Fault.BAD_SPECIFICATION: Reaction(final=When.ALWAYS),
    # After the worker has rendered it again in a safer precision.
    Fault.BAD_PICTURE: Reaction(final=When.ALWAYS),
    # A hub that this machine cannot reach, a damaged file of its cache: another machine may have them.
    Fault.BAD_WEIGHTS: Reaction(final=When.NOBODY_ELSE, elsewhere=True, against=Scope.MODEL),
    Fault.PIPELINE_ERROR: Reaction(elsewhere=True, against=Scope.MODEL),
    Fault.TIMEOUT: Reaction(alone=True, elsewhere=True, against=Scope.DEVICE),
    Fault.WORKER_DIED: Reaction(alone=True, elsewhere=True, against=Scope.DEVICE),
    # Mostly a machine that was switched off, cut off or suspended.
    Fault.LOST_LEASE: Reaction(burns=When.ALONE, alone=True),
    # The worker waits and keeps its jobs; they return to the queue only if it is stopped meanwhile.
    Fault.STORE_AWAY: Reaction(burns=When.NEVER),
    Fault.DATABASE_AWAY: Reaction(burns=When.NEVER),
    Fault.BROKER_AWAY: Reaction(burns=When.NEVER),
}


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long and how often, from the settings of these names."""

    lease_seconds: float = 30
    max_attempts: int = 3
    quarantine_seconds: float = 3600


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the decision about one job depends on, besides the fault."""

    #: Attempts counted against the job, this one included.
    attempt: int
    max_attempts: int
    #: Whether it was rendered alone, as a suspect.
    alone: bool
    #: Whether another worker could render it now.
    others: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one job."""

    event: Transition
    burns: bool
    #: Whether it fails only because no attempt is left.
    spent: bool
    alone: bool
    elsewhere: bool


def decide(fault: Fault, now: Situation) -> Decision:
    """Decide what a fault means for a job: failed for good, or queued again, and how."""
    reaction = REACTIONS[fault]
    burns = _holds(reaction.burns, now)
    hopeless = _holds(reaction.final, now)
    spent = not hopeless and burns and now.attempt >= now.max_attempts
    final = hopeless or spent
    return Decision(
        event=Transition.FAIL if final else Transition.REQUEUE,
        burns=burns or final,
        spent=spent,
        alone=reaction.alone or now.alone,
        elsewhere=reaction.elsewhere and now.others and not final,
    )


def _holds(when: When, now: Situation) -> bool:
    if when is When.NOBODY_ELSE:
        return not now.others
    return when is When.ALWAYS or (when is When.ALONE and now.alone)


# -- workers in quarantine ---------------------------------------------------------------------------------

#: A device or model is quarantined after so many faults within so many seconds.
QUARANTINED_AFTER = 3
WITHIN_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One fault of a worker, with all the jobs that it met."""

    fault: Fault
    model: str | None
    jobs: frozenset[int]
    #: Whether the worker has since rendered a picture: of this model, where the fault counts against that.
    overcome: bool


def quarantine(incidents: Sequence[Incident], *, model: str | None, others: bool) -> Scope:
    """Decide what of a worker to quarantine, after its faults of the last `WITHIN_SECONDS`, the newest one of `model`.

    A device that breaks is left out even where it is the only one: it would spoil whatever it is given. Other faults
    may be the jobs' own. They count as long as nothing succeeds there, once per job, and only where another worker
    could do better.
    """
    broken = [incident for incident in incidents if incident.fault is Fault.BROKEN_DEVICE]
    if len(broken) >= QUARANTINED_AFTER:
        return Scope.DEVICE
    if not others:
        return Scope.NOTHING
    counted = [incident for incident in incidents if not incident.overcome]
    for scope in (Scope.DEVICE, Scope.MODEL):
        against = [
            incident
            for incident in counted
            if REACTIONS[incident.fault].against is scope and (scope is Scope.DEVICE or incident.model == model)
        ]
        if _independent(against) >= QUARANTINED_AFTER:
            return scope
    return Scope.NOTHING


def _independent(incidents: Iterable[Incident]) -> int:
    """Count incidents, those that met the same job once."""
    met: set[int] = set()
    n = 0
    for incident in incidents:
        if not incident.jobs & met:
            n += 1
        met |= incident.jobs
    return n
