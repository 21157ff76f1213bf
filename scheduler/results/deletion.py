"""Delete one render or one picture, whatever its age, with its objects."""

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.results.purge import Purge
from scheduler.results.thumbnails import Side
from scheduler.services import Services
from storage.objects.object_keys import picture_key, thumbnail_key
from storage.renders.deletion import Deletions
from storage.renders.purge import PurgeRows
from storage.renders.views import JobView
from storage.rules.states import FINAL, State


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Deletes what somebody names; what was cut off is resumed by the scheduler process, or the next purge."""

    services: Services

    @property
    def rows(self) -> Deletions:
        return Deletions(self.services.database, self.services.jobs)

    @property
    def purge(self) -> Purge:
        return Purge(
            purging=PurgeRows(self.services.database),
            objects=self.services.objects,
            spared_seconds=self.services.settings.lease_seconds,
        )

    def hide(self, render_id: str) -> int:
        """Cancel what is unfinished of a render and hide it; its pictures are left to the scheduler process.

        Returns how many jobs were cancelled. Raises StillNeeded, NotFound.
        """
        return self.rows.hide_render(render_id)

    def render(self, render_id: str, show: Callable[[int], None]) -> int:
        """Hide a render and delete its pictures now, telling how many were deleted so far; how many were cancelled.

        Raises StillNeeded, NotFound; DatabaseProblem, ObjectStoreProblem: then the rest goes later.
        """
        cancelled = self.hide(render_id)
        self.purge.finish(render_id, show)
        return cancelled

    def job(self, job: JobView) -> int:
        """Delete one picture, cancelling its job if it is unfinished; how many jobs were cancelled, 0 or 1.

        Of a render with a single picture nothing is left. Raises as `render`; then it can be deleted again.
        """
        if self.services.views.render(job.render_id).total == 1:
            return self.render(job.render_id, lambda _: None)
        self.rows.check_job(job)
        cancelled = job.state not in FINAL and self.services.jobs.cancel_job(job.render_id, job.index)
        key = picture_key(job.render_id, job.index)
        # A row without a picture can be deleted again, a picture without a row would never be found. But what failed
        # may be retried in this moment, and the picture of that must not go.
        if self.services.views.job(job.id).state is State.DONE:
            self.services.objects.delete(key)
            self.rows.delete_job(job)
            # Last: whoever makes one now looks for the row afterwards (`scheduler.results.thumbnails`).
            for side in Side:
                self.services.objects.delete(thumbnail_key(job.render_id, job.index, side))
        else:
            self.rows.delete_job(job)
            self.services.objects.delete(key)
        return int(cancelled)
