"""One run from start to verdict: storm, calm, and then what must be true."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from storage.database.tables import batches, jobs, renders
from storage.database.webhook_tables import deliveries
from storage.errors import BrokerProblem
from tests.chaos.figures import Figures, figures
from tests.chaos.invariants import Snapshot, violations
from tests.chaos.load import Load
from tests.chaos.plan import MODEL_NAMES, SCHEDULERS, Plan
from tests.chaos.processes import strays
from tests.chaos.sentry import Sentry
from tests.chaos.stage import Stage, open_stage
from tests.chaos.storm import storm
from tests.chaos.visitors import Visitors
from tests.servers import eventually

_LOOK_SECONDS = 0.5
_GET_THREADS = 4

Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    figures: Figures
    violations: Sequence[str]


def run(plan: Plan, folder: Path, show: Show) -> Verdict:
    """Events go to `folder`/events.jsonl, figures and violations to results.json, logs of every process beside them."""
    began = time.monotonic()
    show("starting the farm")
    with open_stage(plan, folder) as stage:
        stage.events.write("driver", "started", plan=str(plan))
        watch = _Watch(stage=stage, show=show, injected_before=time.monotonic())
        with ThreadPoolExecutor(thread_name_prefix="driver") as threads:
            load = Load(stage=stage, rng=Random(f"load {plan.seed}"))
            visitors, sentry = Visitors(stage=stage, seed=plan.seed), Sentry(stage=stage)
            background = [
                threads.submit(task)
                for task in (
                    stage.tend,
                    load.run,
                    lambda: stage.recoveries.watch(stage.over),
                    watch.run,
                    visitors.run,
                    sentry.ask_for_health,
                    sentry.look_at_rows,
                )
            ]
            try:
                storm(stage, lambda: _raise_what_ended(background))
                silent = _call_the_roll(stage, load)
                settled_after = _settle(stage, background)
                stage.over.set()
                took = time.monotonic() - began
                beside = Beside(watch=watch, visitors=visitors, sentry=sentry)
                verdict = _judge(stage, beside, show, silent, took=took, settled_after=settled_after)
            finally:
                stage.calm.set()
                stage.over.set()
        _raise_what_ended(background)
    (folder / "results.json").write_text(
        json.dumps({**verdict.figures.fields(), "violations": list(verdict.violations)}, indent=1)
    )
    return verdict


def _raise_what_ended(background: Sequence[Future[None]]) -> None:
    for task in background:
        if task.done():
            task.result()


def _call_the_roll(stage: Stage, load: Load) -> list[str]:
    """Give every worker the chance to render once more; those that do not, though there is work."""
    stage.events.write("driver", "calm")
    calm_at = time.time()

    def missing() -> list[str]:
        load.top_up()
        claims = stage.observer.last_claims()
        return [machine.worker for machine in stage.machines if claims.get(machine.worker, 0.0) < calm_at]

    try:
        eventually(lambda: not missing(), "every worker renders again", timeout=stage.plan.comeback)
    except AssertionError:
        return [
            f"{worker} rendered nothing for {stage.plan.comeback:.0f} s after the last fault, with jobs and "
            f"{sum(_tickets(stage).values())} tickets waiting"
            for worker in missing()
        ]
    stage.events.write("driver", "every worker is back", after=round(time.time() - calm_at, 1))
    return []


def _settle(stage: Stage, background: Sequence[Future[None]]) -> float:
    """Wait until every job is final and every ticket consumed; how long that took. What is not so, invariants tell."""
    started = time.monotonic()
    if stage.plan.marks_run_out:
        stage.let_marks_run_out()

    def settled() -> bool:
        _raise_what_ended(background)
        return (
            stage.serving()
            and stage.observer.unfinished() == 0
            and stage.observer.orphans() == 0
            and not any(_tickets(stage).values())
        )

    try:
        eventually(settled, "everything has come to rest", timeout=stage.plan.settle)
    except AssertionError as error:
        stage.events.write("driver", "not settled", error=str(error))
    took = time.monotonic() - started
    stage.events.write("driver", "settled", after=round(took, 1))
    return took


def _judge(
    stage: Stage, beside: "Beside", show: Show, silent: Sequence[str], *, took: float, settled_after: float
) -> Verdict:
    show("everything has come to rest; looking at every row and object")
    tickets, in_hand = _tickets(stage), stage.direct_tickets.in_hand()
    left = strays(stage.home, stage.kept)
    with ThreadPoolExecutor(len(stage.kept)) as threads:
        codes = list(threads.map(lambda kept: kept.ask_to_end(within=stage.plan.grace + 20), stage.kept))
    bad_ends = [
        f"{kept.name} ended with exit code {code} when it was asked to stop at the end"
        for kept, code in zip(stage.kept, codes, strict=True)
        if code not in kept.ends_with
    ]
    keys = list(stage.objects.list("renders/"))
    with ThreadPoolExecutor(_GET_THREADS) as threads:
        objects = dict(zip(keys, threads.map(stage.objects.get, keys), strict=True))
    events = stage.events.counts()
    snapshot = Snapshot(
        ledger=stage.ledger,
        renders=stage.observer.table(renders),
        jobs=stage.observer.table(jobs),
        batches=stage.observer.table(batches),
        objects=objects,
        tickets=tickets,
        tickets_in_hand=in_hand,
        most_tickets=beside.watch.most_tickets,
        # Each scheduler process tops the window up by what it counted a moment before.
        tickets_allowed=len(SCHEDULERS) * stage.tickets.window + sum(stage.ledger.surplus),
        buried_allowed=sum(
            events[fault] for fault in ("kill worker", "kill machine", "rolling restart", "kill Redis clients")
        )
        + len(stage.machines),
        strays=[*left, *strays(stage.home, stage.kept)],
        silent=silent,
        unasked=[*(end for kept in stage.kept for end in kept.unasked), *bad_ends],
        deliveries=stage.observer.table(deliveries),
        taken=frozenset(stage.receiver.taken),
        hooked=frozenset(beside.visitors.hooked),
        noted=[*beside.visitors.violations, *beside.sentry.violations],
    )
    found = violations(snapshot)
    counted = figures(stage.plan, snapshot, events, stage.recoveries.delays, took=took, settled_after=settled_after)
    return Verdict(figures=_with_what_was_seen(counted, stage, beside), violations=found)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Those who looked on while the farm ran."""

    watch: "_Watch"
    visitors: Visitors
    sentry: Sentry


def _with_what_was_seen(counted: Figures, stage: Stage, beside: Beside) -> Figures:
    return dataclasses.replace(
        counted,
        pgbouncer=stage.links.pooled,
        load_average=[round(load, 1) for load in os.getloadavg()],
        healthz_asked=beside.sentry.asked,
        healthz_slowest=round(beside.sentry.slowest_healthz, 2),
        driver_overslept_then=round(beside.sentry.lag_at_slowest, 2),
        driver_overslept_most=round(beside.sentry.most_lag, 2),
        most_queued_with_a_limit=beside.sentry.most_queued,
        webhooks_taken=sum(stage.receiver.taken.values()),
    )


def _tickets(stage: Stage) -> dict[str, int]:
    return {model: sum(stage.direct_tickets.queued(model).values()) for model in MODEL_NAMES}


@dataclass(kw_only=True)
class _Watch:
    """Counts tickets and shows how far the run is, beside everything else."""

    stage: Stage
    show: Show
    injected_before: float
    most_tickets: int = 0
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        while not self.stage.over.wait(_LOOK_SECONDS):
            try:
                self.most_tickets = max(self.most_tickets, *_tickets(self.stage).values())
            except BrokerProblem:
                continue  # away just now
            self.show(self._progress())

    def _progress(self) -> str:
        stage = self.stage
        elapsed = time.monotonic() - self._started
        up = sum(kept.is_up for kept in stage.kept)
        phase = "calm" if stage.calm.is_set() else f"{elapsed:4.0f} of {stage.plan.seconds:.0f} s"
        return (
            f"{phase}: {stage.ledger.jobs_accepted} jobs accepted, {stage.observer.unfinished()} to go, "
            f"{sum(stage.events.counts().values())} events, {up} of {len(stage.kept)} processes up"
        )
