"""WebDataset shards, as img2dataset lays them out: `00000.tar`, `00000.parquet`, `00000_stats.json`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scheduler.export.formats import Format, Rows, line, made
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.tables import schema_of, write_table
from scheduler.export.targets import to_disk


@contextmanager
def _torch_hidden() -> Iterator[None]:
    """Hide torch: for classes that writing does not use, webdataset would spend seconds and 200 MB on it."""
    loaded = "torch" in sys.modules
    if not loaded:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not loaded:
            del sys.modules["torch"]


with _torch_hidden():
    import webdataset


def write(shard: Shard, rows: Rows, columns: Columns, pictures: Path, into: Path) -> list[str]:
    """`00000.tar` of `KEY.png`, `KEY.txt`, `KEY.json`; `00000.parquet` with all rows."""
    tar, table = f"{shard.name}.tar", f"{shard.name}.parquet"
    with (into / tar).open("wb") as file:
        with webdataset.TarWriter(file, encoder=False, compress=False, mtime=0) as writer:
            for row in made(rows):
                writer.write(
                    {
                        "__key__": row["key"],
                        "png": (pictures / f"{row['key']}.png").read_bytes(),
                        "txt": row["prompt"].encode(),
                        "json": line(columns.without_gaps(row)).encode(),
                    }
                )
        to_disk(file)
    write_table(into / table, schema_of(columns), [rows])
    return [tar, table]


FORMAT = Format(name="webdataset", write=write, stats_in="", data_files="*.tar")
