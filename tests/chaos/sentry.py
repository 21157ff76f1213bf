"""Looks meanwhile for what must be true at every moment: the API lives, limits hold, jobs agree with their renders."""

import os
import time
from dataclasses import dataclass, field

import httpx
from sqlalchemy import func, or_, select

from storage.database.tables import jobs, renders
from storage.rules.states import FINAL, State
from tests.chaos.plan import MOST_QUEUED
from tests.chaos.stage import NO_TLS, Stage

_HEALTH_PAUSE = 0.2
_LOOK_PAUSE = 1.0
_PATIENCE = 30.0
#: The promise, in seconds.
MOST_HEALTHZ = 1.0
#: A render that is held while a job of it comes back may disagree for a moment: the sweep puts that right.
_PUT_RIGHT_WITHIN = 30.0


@dataclass(kw_only=True)
class Sentry:
    """What was seen, at worst."""

    stage: Stage
    violations: list[str] = field(default_factory=list)
    asked: int = 0
    slowest_healthz: float = 0.0
    #: By how much the driver's own thread overslept then: as much of it is the machine's doing.
    lag_at_slowest: float = 0.0
    most_lag: float = 0.0
    most_queued: int = 0
    _disagreeing_since: dict[str, float] = field(default_factory=dict)

    # -- the API -----------------------------------------------------------------------------------------------

    def ask_for_health(self) -> None:
        """Ask `/healthz` all the while that the API is up; it answers for nothing while it is killed or starts."""
        api, address, known = self.stage.api, f"{self.stage.api_address}/healthz", 0
        while True:
            before = time.monotonic()
            if self.stage.over.wait(_HEALTH_PAUSE):
                return
            lag = time.monotonic() - before - _HEALTH_PAUSE
            self.most_lag = max(self.most_lag, lag)
            pid = api.process.pid if api.is_up else 0
            started = time.monotonic()
            try:
                healthy = httpx.get(address, timeout=_PATIENCE, verify=NO_TLS).status_code == 200
            except httpx.HTTPError:
                healthy = False
            took = time.monotonic() - started
            if not pid or not api.is_up or api.process.pid != pid or api.taken.locked():
                continue
            if known != pid:
                # It listens before it has started, so that whoever asks meanwhile is answered at its first moment.
                known = pid if healthy else known
            elif healthy:
                self._note_health(took, lag)
            else:
                self._note(f"/healthz was not answered within {took:.1f} s")

    def _note_health(self, took: float, lag: float) -> None:
        self.asked += 1
        if took > self.slowest_healthz:
            self.slowest_healthz, self.lag_at_slowest = took, lag
        if took > MOST_HEALTHZ:
            self.stage.events.write("sentry", "slow healthz", took=round(took, 2), lag=round(lag, 2))
            if self.stage.plan.judges_speed:
                self._note(
                    f"/healthz was answered after {took:.2f} s (the driver itself overslept by {lag:.2f} s before, "
                    f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
                )

    # -- rows --------------------------------------------------------------------------------------------------

    def look_at_rows(self) -> None:
        while not self.stage.over.wait(_LOOK_PAUSE):
            self._look_at_limits()
            self._look_at_renders()

    def _look_at_limits(self) -> None:
        if not self.stage.limited_key:
            return
        statement = select(func.count()).join_from(jobs, renders)
        statement = statement.where(renders.c.key_id == self.stage.limited_key[0], jobs.c.state.not_in(sorted(FINAL)))
        [row] = self.stage.observer.all(statement)
        self.most_queued = max(self.most_queued, row[0])
        if row[0] > MOST_QUEUED:
            self._note(f"{row[0]} unfinished pictures of a key that may have {MOST_QUEUED}")

    def _look_at_renders(self) -> None:
        """Compare, in one statement and so at one moment, what renders tell of their jobs and what these are."""
        counted = {
            state: func.count().filter(jobs.c.state == state).label(state)
            for state in (State.DONE, State.FAILED, State.CANCELLED, State.QUEUED, State.HELD)
        }
        statement = (
            select(renders.c.id, renders.c.held)
            .join_from(renders, jobs)
            .group_by(renders.c.id)
            .having(
                or_(
                    *(counted[state].element != renders.c[state] for state in FINAL),
                    renders.c.held & (counted[State.QUEUED].element > 0),
                    ~renders.c.held & (counted[State.HELD].element > 0),
                )
            )
        )
        now = time.monotonic()
        found = {row.id for row in self.stage.observer.all(statement)}
        self._disagreeing_since = {one: self._disagreeing_since.get(one, now) for one in found}
        for render_id, since in self._disagreeing_since.items():
            if now - since > _PUT_RIGHT_WITHIN:
                self._note(f"render {render_id} has disagreed with its jobs for {now - since:.0f} s")

    def _note(self, words: str) -> None:
        self.stage.events.write("sentry", "violation", words=words)
        self.violations.append(words)
