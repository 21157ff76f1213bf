"""Deleting old renders, pictures first. An interrupted purge resumes on the next run."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.objects.object_keys import folder_of
from storage.objects.store import ObjectStore
from storage.renders.purge import PurgeCandidate, PurgeRows

_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Purge:
    purging: PurgeRows
    objects: ObjectStore

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
                while pictures := self.purging.next_pictures(render_id):
                    list(threads.map(self.objects.delete, [key for _, key in pictures]))
                    self.purging.delete_jobs([job_id for job_id, _ in pictures])
                    deleted += len(pictures)
                    show(deleted)
                while self.purging.delete_logs(render_id):
                    pass
                # What a worker that had lost its job has stored since.
                self.objects.delete_below(folder_of(render_id))
                self.purging.delete_render(render_id)
                gone.append(render_id)
        return gone
