"""WebDataset shards, as img2dataset lays them out: `00000.tar`, `00000.parquet`, `00000_stats.json`."""

from pathlib import Path

import webdataset

from scheduler.export.formats import Format, Rows, line, made
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.tables import schema_of, write_table
from scheduler.export.targets import to_disk


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
                        "json": line(row).encode(),
                    }
                )
        to_disk(file)
    write_table(into / table, schema_of(columns), [rows])
    return [tar, table]


FORMAT = Format(name="webdataset", write=write, stats_in="")
