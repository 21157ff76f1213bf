"""Say of a single job why it is in its state, and which of the farm's rules decides: for `farm why`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.results.outlook import why_next
from scheduler.results.why import clock, why_held
from storage.renders.job_rules import JobRules, RuledJob
from storage.rules.faults import REACTIONS, Fault, When
from storage.rules.states import State

if TYPE_CHECKING:
    from scheduler.services import Services
    from storage.renders.views import JobView


@dataclass(frozen=True, kw_only=True)
class JobReason:
    """Why a job is in its state, and the rules that decide."""

    sentence: str
    rules: tuple[str, ...]


def why_job(services: "Services", job: "JobView") -> JobReason:
    """Say why a job waits, runs, or how it ended. Raises NotFound if it is deleted meanwhile."""
    ruled = JobRules(services.database).of(job)
    if job.state is State.HELD:
        render = services.views.render(job.render_id)
        return JobReason(sentence=why_held(services, render), rules=("jobs of a held render are not claimed",))
    if job.state is State.QUEUED:
        return JobReason(sentence=f"waits: {why_next(services, job)}", rules=tuple(_of_the_queue(services, job, ruled)))
    if job.state is State.RUNNING:
        return _running(services, job, ruled)
    when = "" if job.finished_at is None else f" at {clock(job.finished_at, now=ruled.now)}"
    if job.state is State.FAILED:
        again = f"`farm retry {job.render_id}` queues it again, with the same seed"
        return JobReason(sentence=f"failed{when}: {job.error}", rules=(_of_the_failure(services, job), again))
    if job.state is State.CANCELLED:
        return JobReason(sentence=f"cancelled{when}", rules=("a cancelled job is not rendered, and not retried",))
    by = f" by {job.worker}, attempt {job.attempt}" if job.worker else ""
    return JobReason(sentence=f"done{when}{by}", rules=("the first picture stored counts; no other replaces it",))


def _of_the_queue(services: "Services", job: "JobView", ruled: RuledJob) -> list[str]:
    priority = ruled.priority.name.lower()
    told = [
        f"of the waiting pictures of {job.spec.model} those of higher priority come first (this one: {priority}), then "
        f"those of an earlier fair turn (this one: turn {ruled.round} of {ruled.owner}), then older ones",
    ]
    if ruled.alone:
        told.append("it is rendered alone, not in a batch: the process that rendered it died, or fell silent, with it")
    if ruled.elsewhere_until is not None:
        until = clock(ruled.elsewhere_until, now=ruled.now)
        told.append(f"{job.worker}, where it failed, leaves it to other workers until {until}")
    if job.fault is not None:
        told.append(_of_attempts(services, job))
    return told


def _running(services: "Services", job: "JobView", ruled: RuledJob) -> JobReason:
    since = "" if job.started_at is None else f" since {clock(job.started_at, now=ruled.now)}"
    rules = []
    if ruled.lease_until is not None:
        left = max(0.0, ruled.lease_until - ruled.now)
        rules.append(f"its worker renews a lease, now for {left:.0f} s; if that runs out, it goes back to the queue")
    rules.append(_of_attempts(services, job))
    return JobReason(sentence=f"is rendered on {job.worker}{since}", rules=tuple(rules))


def _of_attempts(services: "Services", job: "JobView") -> str:
    most = services.settings.retry_policy.max_attempts
    last = f"; the last one ended with: {job.fault}" if job.fault is not None else ""
    return f"{job.attempt} of {most} attempts are counted against it{last}"


def _of_the_failure(services: "Services", job: "JobView") -> str:
    if job.fault is None:
        return _of_attempts(services, job)
    final = REACTIONS[Fault(job.fault)].final
    if final is When.ALWAYS:
        return f"{job.fault} fails a picture at once: it would fail in the same way everywhere"
    most = services.settings.retry_policy.max_attempts
    if final is When.NOBODY_ELSE and job.attempt < most:
        return f"{job.fault} fails a picture at once where no other worker serves its model"
    return f"after {most} attempts a picture is not tried again; this one's last ended with: {job.fault}"
