"""WebDataset shards, as img2dataset lays them out: `00000.tar`, `00000.parquet`, `00000_stats.json`."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from scheduler.export.formats import Format, Rows, line, made
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.tables import schema_of, write_table

#: A picture is written in one piece.
_PIECE_BYTES = 2**26


def write(shard: Shard, rows: Rows, columns: Columns, pictures: Iterator[bytes], into: Path) -> list[str]:
    """`00000.tar` of `KEY.png`, `KEY.txt`, `KEY.json`; `00000.parquet` with all rows."""
    tar, table = f"{shard.name}.tar", f"{shard.name}.parquet"
    with tarfile.TarFile(into / tar, "w", copybufsize=_PIECE_BYTES) as file:
        for row, picture in zip(made(rows), pictures, strict=True):
            # In the order of the library webdataset's own writer.
            _add(file, f"{row['key']}.json", line(columns.without_gaps(row)).encode())
            _add(file, f"{row['key']}.png", picture)
            _add(file, f"{row['key']}.txt", row["prompt"].encode())
    write_table(into / table, schema_of(columns), [rows])
    return [tar, table]


def _add(file: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file with the owner and mode that the library gives, without a time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uname, member.gname = len(data), 0o444, "bigdata", "bigdata"
    file.addfile(member, io.BytesIO(data))


FORMAT = Format(name="webdataset", write=write, stats_in="", data_files="*.tar")
