"""The story of an export: shard by shard, its pictures gathered, its files built, placed, and noted as done.

Every step can be interrupted and is found again: pictures that were gathered are kept, checked by their hash; a shard
is done once its `…_stats.json` is there, which is placed last and names what the shard was made from.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scheduler.export import card
from scheduler.export.formats import Format
from scheduler.export.plan import Shard, Sharding, shards
from scheduler.export.rows import columns_of, counts, row_of
from scheduler.export.settling import Settling
from scheduler.export.shard_files import ShardFiles
from scheduler.export.targets import Target
from storage.errors import InvalidInput
from storage.objects.store import ObjectStore
from storage.renders.exports import Exports
from storage.renders.views import JobView, Views
from storage.rules.states import FINAL

_LOOK_EVERY_SECONDS = 1.0
_SEEN_EVERY_SECONDS = 10.0


@dataclass
class Progress:
    """How far an export is, in what is built; what was there before counts, too."""

    shards: int = 0
    pictures: int = 0
    failed: int = 0
    cancelled: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Export:
    views: Views
    objects: ObjectStore
    exports: Exports
    target: Target
    render_id: str
    format: Format
    sharding: Sharding
    #: Write shards while the render runs; else it must be finished.
    follow: bool = False

    def run(self, show: Callable[[Progress], None]) -> Progress:
        """Raises InvalidInput, ExportProblem, ObjectStoreProblem; what was written before is gone on with next time."""
        render = self.views.render(self.render_id)
        if not render.finished and not self.follow:
            raise InvalidInput(
                f"render {self.render_id} is {render.state} with {render.remaining} unfinished pictures; "
                "--follow writes shards while it runs"
            )
        options = {"render": self.render_id, "format": self.format.name, **self.sharding.fields()}
        progress = Progress()
        with self.target.claim(options) as working:
            export_id = self.exports.begin(
                render_id=self.render_id, format=self.format.name, target=self.target.shown, options=options
            )
            if self.format.data_files is not None:
                card.place(self.target, self.format.data_files, working)
            columns = columns_of(self.views.labels(self.render_id))
            with Settling() as settling:
                files = ShardFiles(
                    objects=self.objects,
                    target=self.target,
                    format=self.format,
                    columns=columns,
                    working=working,
                    settling=settling,
                )
                for shard in shards(self._final_jobs(export_id, settling), self.sharding):
                    self._write(shard, files, progress, show)
            self.exports.finish(export_id)
        return progress

    def _final_jobs(self, export_id: str, settling: Settling) -> Iterator[JobView]:
        """All jobs in their order, each once it is final; waits for them while the render runs."""
        after, seen_at = -1, time.monotonic()
        while True:
            for job in self.views.jobs(self.render_id, after=after):
                if job.state not in FINAL:
                    break
                yield job
                after = job.index
                if time.monotonic() - seen_at > _SEEN_EVERY_SECONDS:
                    self.exports.seen(export_id)
                    seen_at = time.monotonic()
            else:
                return
            if not self.follow:
                raise InvalidInput(
                    f"render {self.render_id}: job {job.id} was requeued meanwhile; run the export again"
                )
            self.exports.seen(export_id)
            settling.check()
            time.sleep(_LOOK_EVERY_SECONDS)

    def _write(self, shard: Shard, files: ShardFiles, progress: Progress, show: Callable[[Progress], None]) -> None:
        batches = self.views.batches({job.batch_id for job in shard.jobs if job.batch_id is not None})
        rows = [
            row_of(job, shard.key(position), batches.get(job.batch_id or ""), files.columns)
            for position, job in enumerate(shard.jobs)
        ]
        files.write(shard, rows, lambda n: show(replace(progress, pictures=progress.pictures + n)))
        by_status = counts(rows)
        progress.shards += 1
        progress.pictures += by_status.get("success", 0)
        progress.failed += by_status.get("failed", 0)
        progress.cancelled += by_status.get("cancelled", 0)
        progress.bytes += sum(row["bytes"] or 0 for row in rows)
        show(progress)
