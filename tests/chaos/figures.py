"""What a run amounted to: kills, jobs, delays, rate."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.rules.states import FINAL, State
from tests.chaos.deck import FAULTS
from tests.chaos.invariants import Snapshot, objects_have_their_done_row
from tests.chaos.observer import Delay
from tests.chaos.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Seconds where nothing else is said."""

    seed: int
    database: str
    took: float
    #: How often each fault was injected.
    faults: Mapping[str, int]
    #: Injections that ended a process holding jobs, or froze it past its lease.
    kills: int
    renders_accepted: int
    jobs_accepted: int
    #: Of renders whose submitter got no answer.
    jobs_beside: int
    done: int
    failed: int
    cancelled: int
    #: Accepted, but absent or not final.
    lost: int
    #: More than one row for one picture asked for.
    doubled: int
    orphans: int
    #: Claims beyond the first of each job.
    claimed_again: int
    jobs_per_second: float
    #: Jobs that were seen to run again after their worker was killed or frozen.
    recoveries: int
    #: Until back in the queue, by fault: the longest over all, and where neither a service nor a scheduler process was
    #: hit meanwhile.
    longest_until_queued: Mapping[str, float]
    longest_until_queued_undisturbed: Mapping[str, float]
    #: Until running again: jobs of the highest priority only, as others rightly wait for those.
    longest_until_running: Mapping[str, float]
    longest_until_running_undisturbed: Mapping[str, float]
    most_tickets: int
    settled_after: float
    #: Whether PgBouncer stood between the farm and PostgreSQL.
    pgbouncer: bool = False
    healthz_asked: int = 0
    healthz_slowest: float = 0.0
    #: By how much the driver's own threads overslept just before the slowest answer, and at worst: the machine's share.
    driver_overslept_then: float = 0.0
    driver_overslept_most: float = 0.0
    #: Of the machine at the end: with more than it has cores, times are not the farm's alone.
    load_average: Sequence[float] = ()
    most_queued_with_a_limit: int = 0
    webhooks_taken: int = 0

    def fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def figures(
    plan: Plan,
    snapshot: Snapshot,
    events: Counter[str],
    delays: Sequence[Delay],
    *,
    took: float,
    settled_after: float,
) -> Figures:
    undisturbed = [delay for delay in delays if not delay.disturbed]
    states = Counter(job.state for job in snapshot.jobs)
    accepted = snapshot.ledger.accepted
    final = Counter(job.render_id for job in snapshot.jobs if job.state in FINAL)
    rows = Counter(job.seed for job in snapshot.jobs)
    injected = {fault.name: events[fault.name] for fault in FAULTS if plan.database in fault.databases}
    injected["kill farm render"] = events["kill farm render"]
    return Figures(
        seed=plan.seed,
        database=plan.database,
        took=round(took, 1),
        faults=injected,
        kills=sum(events[fault.name] for fault in FAULTS if fault.loses_jobs),
        renders_accepted=len(accepted),
        jobs_accepted=snapshot.ledger.jobs_accepted,
        jobs_beside=sum(job.render_id not in accepted for job in snapshot.jobs),
        done=states[State.DONE],
        failed=states[State.FAILED],
        cancelled=states[State.CANCELLED],
        lost=sum(max(0, order.jobs - final[render_id]) for render_id, order in accepted.items()),
        doubled=sum(n - 1 for n in rows.values()),
        orphans=sum(1 for _ in objects_have_their_done_row(snapshot)),
        claimed_again=sum(max(0, job.fence - 1) for job in snapshot.jobs if job.state == State.DONE),
        jobs_per_second=round(states[State.DONE] / took, 1),
        recoveries=len(delays),
        longest_until_queued=_longest((delay.fault, delay.back) for delay in delays),
        longest_until_queued_undisturbed=_longest((delay.fault, delay.back) for delay in undisturbed),
        longest_until_running=_longest((delay.fault, delay.running) for delay in delays),
        longest_until_running_undisturbed=_longest((delay.fault, delay.running) for delay in undisturbed),
        most_tickets=snapshot.most_tickets,
        settled_after=round(settled_after, 1),
    )


def _longest(delays: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    longest: dict[str, float] = {}
    for fault, seconds in delays:
        if seconds is not None:
            longest[fault] = max(longest.get(fault, 0.0), round(seconds, 1))
    return longest
