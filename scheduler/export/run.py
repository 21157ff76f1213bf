"""The story of an export: shard by shard, its pictures gathered, its files built, placed, and noted as done.

Every step can be interrupted and is found again: pictures that were gathered are kept, checked by their hash; a shard
is done once its `…_stats.json` is there, which is placed last and names what the shard was made from.
"""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scheduler.export import card
from scheduler.export.formats import Format
from scheduler.export.plan import Shard, Sharding, shards
from scheduler.export.rows import Columns, columns_of, counts, row_of
from scheduler.export.targets import Target, write_down, writing
from storage.errors import InvalidInput, NotFound, ObjectStoreProblem
from storage.objects.store import ObjectStore
from storage.renders.exports import Exports
from storage.renders.views import JobView, Views
from storage.rules.states import FINAL, State

#: Pictures fetched at once, each straight into a file.
_THREADS = 8
_LOOK_EVERY_SECONDS = 1.0
_SEEN_EVERY_SECONDS = 10.0


@dataclass
class Progress:
    """How far an export is; what was there before counts, too."""

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
            for shard in shards(self._final_jobs(export_id), self.sharding):
                self._write(shard, columns, working, progress, show)
            self.exports.finish(export_id)
        return progress

    def _final_jobs(self, export_id: str) -> Iterator[JobView]:
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
            time.sleep(_LOOK_EVERY_SECONDS)

    def _write(
        self, shard: Shard, columns: Columns, working: Path, progress: Progress, show: Callable[[Progress], None]
    ) -> None:
        batches = self.views.batches({job.batch_id for job in shard.jobs if job.batch_id is not None})
        rows = [
            row_of(job, shard.key(position), batches.get(job.batch_id or ""), columns)
            for position, job in enumerate(shard.jobs)
        ]
        by_status = counts(rows)
        made, failed, cancelled = (by_status.get(status, 0) for status in ("success", "failed", "cancelled"))
        size = sum(row["bytes"] or 0 for row in rows)
        stats: dict[str, Any] = {
            "count": len(rows),
            "successes": made,
            "failed": failed,
            "cancelled": cancelled,
            "status_dict": by_status,
            "bytes": size,
            "first_index": shard.jobs[0].index,
            "last_index": shard.jobs[-1].index,
            # Of the rows, and so of the hashes of all pictures: a shard of other rows is written anew.
            "rows_sha256": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
        }
        noted = self._noted(shard)
        before = noted.pop("files", {})
        if noted != stats or any(self.target.holds(name) != held for name, held in before.items()):
            names = self._build(shard, rows, columns, working, lambda n: show(_with(progress, pictures=n)))
            for name in before.keys() - set(names):
                self.target.remove(name)
            stats["files"] = {name: self.target.holds(name) for name in names}
            built = working / f"{shard.name}.stats"
            with writing(self.target.shown):
                write_down(built, (json.dumps(stats, indent=1) + "\n").encode())
            self.target.place(self._stats_of(shard), built)
        progress.shards += 1
        progress.pictures += made
        progress.failed += failed
        progress.cancelled += cancelled
        progress.bytes += size
        show(progress)

    def _noted(self, shard: Shard) -> dict[str, Any]:
        """What was noted when this shard was written before, perhaps of other rows; nothing if it was not."""
        noted = self.target.read(self._stats_of(shard))
        return {} if noted is None else dict(json.loads(noted))

    def _stats_of(self, shard: Shard) -> str:
        return f"{self.format.stats_in}{shard.name}_stats.json"

    def _build(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        columns: Columns,
        working: Path,
        show: Callable[[int], None],
    ) -> list[str]:
        """Write a shard; the names of its files."""
        pictures, built = working / f"{shard.name}.pictures", working / f"{shard.name}.built"
        shutil.rmtree(built, ignore_errors=True)
        with writing(self.target.shown):
            pictures.mkdir(exist_ok=True)
            built.mkdir()
        wanted = [(job, pictures / f"{row['key']}.png") for job, row in zip(shard.jobs, rows, strict=True)]
        self._gather([(job, file) for job, file in wanted if job.state is State.DONE], show)
        with writing(self.target.shown):
            names = self.format.write(shard, rows, columns, pictures, built)
        for name in names:
            self.target.place(name, built / name)
        shutil.rmtree(built)
        shutil.rmtree(pictures)
        return names

    def _gather(self, wanted: list[tuple[JobView, Path]], show: Callable[[int], None]) -> None:
        """Bring the pictures here; those that are, and are whole, stay."""
        done, lock = 0, threading.Lock()

        def one(job: JobView, file: Path) -> None:
            nonlocal done
            self._fetch(job, file)
            with lock:
                done += 1
                if done % 50 == 0:
                    show(done)

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="export") as threads:
            for finished in [threads.submit(one, job, file) for job, file in wanted]:
                try:
                    finished.result()
                except BaseException:
                    threads.shutdown(cancel_futures=True)
                    raise

    def _fetch(self, job: JobView, file: Path) -> None:
        """Raises ObjectStoreProblem if what the store has is not what was stored."""
        with writing(self.target.shown):
            # Brought here before, or the very file of a store on the same disk: formats only read what is gathered.
            if file.exists() or self.objects.link(str(job.object), file):
                if _is(file, job):
                    return
                # Not written over: it may be the store's own.
                file.unlink()
        try:
            data = self.objects.get(str(job.object))
        except NotFound:
            data = b""
        if hashlib.sha256(data).hexdigest() != job.sha256:
            state = "damaged" if data else "missing"
            raise ObjectStoreProblem(f"job {job.id}: its picture in {self.objects.shown} is {state} ({job.object})")
        with writing(self.target.shown):
            file.write_bytes(data)


def _is(file: Path, job: JobView) -> bool:
    """Whether a file has the bytes that a job's row names."""
    with file.open("rb") as there:
        return hashlib.file_digest(there, "sha256").hexdigest() == job.sha256


def _with(progress: Progress, *, pictures: int) -> Progress:
    """With the pictures of the shard that is being gathered."""
    return replace(progress, pictures=progress.pictures + pictures)
