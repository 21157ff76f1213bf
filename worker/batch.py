"""One batch, from claim to report."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from storage.claims import Claim, Claimed, RenderedBatch
from storage.errors import ModelUnavailable, RenderFailed
from storage.jobs import Jobs
from worker.lease import Leases
from worker.publish import Publisher
from worker.renderers import Abandoned, Rendered, Renderer

log = logging.getLogger(__name__)

_VERSION = version("diffusion-farm")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The jobs of one claim, on their way through the device."""

    claim: Claim
    worker: str
    jobs: Jobs
    leases: Leases
    publisher: Publisher

    def run(self, renderer: Renderer) -> int:
        """Render and hand over to the publisher; how many pictures were made.

        A batch that fails is rendered again one by one, so that a bad picture fails alone.
        """
        try:
            return self._attempt(renderer, self.claim.jobs, batch_id=self.claim.batch_id)
        except RenderFailed as error:
            if len(self.claim.jobs) == 1:
                self.failed(error)
                return 0
            log.warning(
                "batch=%s failed, rendering its %d jobs alone: %s", self.claim.batch_id, len(self.claim.jobs), error
            )
        return sum(self._run_alone(renderer, job) for job in self.claim.jobs)

    def failed(self, error: RenderFailed | ModelUnavailable) -> None:
        """Record that none of the jobs can be rendered here."""
        for job in self.claim.jobs:
            self._fail(job, error)

    def _run_alone(self, renderer: Renderer, job: Claimed) -> int:
        try:
            return self._attempt(renderer, (job,), batch_id=f"{job.id}.{job.fence}.alone")
        except RenderFailed as error:
            self._fail(job, error)
            return 0

    def _attempt(self, renderer: Renderer, jobs: Sequence[Claimed], *, batch_id: str) -> int:
        self.leases.hold(jobs)
        started = time.monotonic()
        try:
            rendered = renderer.render([job.spec for job in jobs], lambda: self._after_step(jobs))
        except Abandoned:
            log.info("batch=%s abandoned: its jobs were cancelled or taken over", batch_id)
            self.leases.release(jobs)
            return 0
        self.publisher.publish(
            self._report(batch_id, jobs, rendered, time.monotonic() - started), jobs, rendered.pictures
        )
        return len(jobs)

    def _after_step(self, jobs: Sequence[Claimed]) -> None:
        self.leases.progress()
        if self.leases.all_lost(jobs):
            raise Abandoned

    def _report(self, batch_id: str, jobs: Sequence[Claimed], rendered: Rendered, seconds: float) -> RenderedBatch:
        return RenderedBatch(
            id=batch_id,
            worker=self.worker,
            jobs=tuple(jobs),
            recipe={"farm": _VERSION, **rendered.recipe},
            render_seconds=seconds,
        )

    def _fail(self, job: Claimed, error: RenderFailed | ModelUnavailable) -> None:
        # Memory may be less short on another worker; nothing else would be better there or later.
        lasting = not (isinstance(error, ModelUnavailable) and error.out_of_memory)
        state = self.jobs.fail(job, str(error), final=lasting)
        log.warning("job=%s-%06d attempt=%d now %s: %s", job.render_id, job.index, job.attempt, state, error)
        self.leases.release([job])
