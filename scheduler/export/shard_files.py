"""The files of a shard: built from its rows and pictures, placed, and noted as done."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scheduler.export.formats import Format
from scheduler.export.gathering import Gathering
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns, counts
from scheduler.export.settling import Settling
from scheduler.export.targets import Target, writing
from storage.objects.store import ObjectStore
from storage.rules.states import State


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """Writes the shards of one export."""

    objects: ObjectStore
    target: Target
    format: Format
    columns: Columns
    #: The target's working folder.
    working: Path
    settling: Settling

    def write(self, shard: Shard, rows: Sequence[dict[str, Any]], show: Callable[[int], None]) -> None:
        """Write a shard, unless it is there, of the same rows. It is placed while the next one is built.

        Args:
            show: called now and then with how many of its pictures are gathered.

        Raises ExportProblem, ObjectStoreProblem, also of the shard before.
        """
        stats = _stats(shard, rows)
        noted = self._noted(shard)
        before: dict[str, int] = noted.pop("files", {})
        if noted != stats or any(self.target.holds(name) != held for name, held in before.items()):
            names = self._build(shard, rows, show)
            self.settling.settle(partial(self._settle, shard, names, stats, before.keys() - set(names)))

    def _noted(self, shard: Shard) -> dict[str, Any]:
        """What was noted when this shard was written before, perhaps of other rows; nothing if it was not."""
        noted = self.target.read(self._stats_of(shard))
        return {} if noted is None else dict(json.loads(noted))

    def _stats_of(self, shard: Shard) -> str:
        return f"{self.format.stats_in}{shard.name}_stats.json"

    def _folders(self, shard: Shard) -> tuple[Path, Path]:
        """Where its pictures are gathered, and where its files are built."""
        return self.working / f"{shard.name}.pictures", self.working / f"{shard.name}.built"

    def _build(self, shard: Shard, rows: Sequence[dict[str, Any]], show: Callable[[int], None]) -> list[str]:
        """Build a shard's files; their names."""
        pictures, built = self._folders(shard)
        shutil.rmtree(built, ignore_errors=True)
        with writing(self.target.shown):
            pictures.mkdir(exist_ok=True)
            built.mkdir()
        wanted = [
            (job, pictures / f"{row['key']}.png")
            for job, row in zip(shard.jobs, rows, strict=True)
            if job.state is State.DONE
        ]
        gathering = Gathering(objects=self.objects, shown=self.target.shown)
        with gathering.of(wanted, show) as gathered, writing(self.target.shown):
            return self.format.write(shard, rows, self.columns, gathered, built)

    def _settle(self, shard: Shard, names: list[str], stats: dict[str, Any], outdated: Collection[str]) -> None:
        """Place a shard's files, and at last note that it is done."""
        pictures, built = self._folders(shard)
        for name in names:
            self.target.place(name, built / name)
        shutil.rmtree(built)
        shutil.rmtree(pictures)
        for name in outdated:
            self.target.remove(name)
        stats["files"] = {name: self.target.holds(name) for name in names}
        note = self.working / f"{shard.name}.stats"
        with writing(self.target.shown):
            note.write_bytes((json.dumps(stats, indent=1) + "\n").encode())
        self.target.place(self._stats_of(shard), note)


def _stats(shard: Shard, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_status = counts(rows)
    return {
        "count": len(rows),
        "successes": by_status.get("success", 0),
        "failed": by_status.get("failed", 0),
        "cancelled": by_status.get("cancelled", 0),
        "status_dict": by_status,
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "first_index": shard.jobs[0].index,
        "last_index": shard.jobs[-1].index,
        # Of the rows, and so of the hashes of all pictures: a shard of other rows is written anew.
        "rows_sha256": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
    }
