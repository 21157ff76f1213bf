"""Delete old renders, pictures first, and uploads that nothing names. An interrupted purge resumes on the next run."""

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.access.uploads import OldUpload, Uploads
from storage.objects.inputs import list_inputs
from storage.objects.object_keys import folder_of
from storage.objects.store import ObjectStore
from storage.renders.named_inputs import named_inputs
from storage.renders.purge import PurgeCandidate, PurgeRows

_THREADS = 8
#: What was just uploaded or looked up may be named in a moment.
LEAST_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Purge:
    """Deletes renders that are hidden, or old. Several processes may do so at the same time."""

    purging: PurgeRows
    objects: ObjectStore
    #: The row of a render stays, hidden, until it has been finished for so long: a worker that has lost its jobs may
    #: store one of their pictures still, for as long as a lease lasts, and be killed before it removes it.
    spared_seconds: float = 0.0

    def run(self, old: Iterable[PurgeCandidate], show: Callable[[int], None]) -> list[str]:
        """Delete these renders, and any whose deletion was interrupted; return the deleted ids.

        One that was asked for again, or is being exported since somebody looked, stays.

        Raises DatabaseProblem, ObjectStoreProblem.
        """
        for one in old:
            self.purging.mark(one)
        gone, deleted = [], 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="purge") as threads:
            for render_id in self.purging.marked():
                while n := self._some(threads, render_id):
                    deleted += n
                    show(deleted)
                if self._rest(render_id):
                    gone.append(render_id)
        return gone

    def finish(self, render_id: str, show: Callable[[int], None]) -> None:
        """Delete what there is of one hidden render; its row stays if it is spared. Raises as `run`."""
        deleted = 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="purge") as threads:
            while n := self._some(threads, render_id):
                deleted += n
                show(deleted)
        self._rest(render_id)

    def advance(self) -> int:
        """Delete some hundred pictures of hidden renders, or the rest of one; how many there were, 0 if none is left.

        Raises as `run`; the next call resumes.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="purge") as threads:
            for render_id in self.purging.marked():
                if n := self._some(threads, render_id) or int(self._rest(render_id)):
                    return n
        return 0

    def _some(self, threads: ThreadPoolExecutor, render_id: str) -> int:
        pictures = self.purging.next_pictures(render_id)
        list(threads.map(self.objects.delete, [key for _, key in pictures]))
        if pictures:
            self.purging.delete_jobs([job_id for job_id, _ in pictures])
        return len(pictures)

    def _rest(self, render_id: str) -> bool:
        """Delete what is left of a render without jobs; whether its own row went, too."""
        while self.purging.delete_logs(render_id):
            pass
        # What a worker that had lost its job has stored since.
        self.objects.delete_below(folder_of(render_id))
        finished_for = self.purging.finished_for(render_id)
        if finished_for is None or finished_for < self.spared_seconds:
            return False
        self.purging.delete_render(render_id)
        return True


@dataclass(frozen=True, kw_only=True)
class UploadPurge:
    """Deletes uploads that no job, schedule or batch names, and that were not stored or used for a while."""

    uploads: Uploads
    seconds: float
    #: Only what is theirs alone; None: everybody's.
    owner: str | None = None

    def unneeded(self, *, without: Collection[str] = ()) -> Sequence[OldUpload]:
        """List what would go; `without`: as if these renders were deleted. Raises as `run`."""
        old = self.uploads.unused(seconds=self._spared, owner=self.owner)
        if not old:
            return []
        named = named_inputs(self.uploads.database, self.uploads.objects, without=without)
        return [one for one in old if one.reference not in named]

    def run(self) -> list[str]:
        """Delete what nothing needs, and return the references. Raises DatabaseProblem, ObjectStoreProblem."""
        # What an earlier version stored is judged from now on.
        self.uploads.adopt(list_inputs(self.uploads.objects))
        return [
            one.reference for one in self.unneeded() if self.uploads.delete_unused(one.reference, seconds=self._spared)
        ]

    @property
    def _spared(self) -> float:
        return max(self.seconds, LEAST_SECONDS)
