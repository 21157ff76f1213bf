"""The three layouts, each written with the library that its readers use.

The same rows and pictures give the same bytes: no time of writing is in them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import webdataset

from scheduler.export.plan import Shard
from scheduler.export.rows import Columns, Kind
from scheduler.export.targets import PAPERS, to_disk, write_down

Rows = Sequence[Mapping[str, Any]]
#: Writes a shard into a folder; `pictures` has a file `KEY.png` for each row that succeeded. The names of what is
#: there then.
Write = Callable[[Shard, Rows, Columns, Path, Path], list[str]]


@dataclass(frozen=True, kw_only=True)
class Format:
    write: Write
    #: Where the `…_stats.json` of each shard goes.
    stats_in: str


_ARROW: Mapping[Kind, pyarrow.DataType] = {
    "text": pyarrow.string(),
    "whole": pyarrow.int64(),
    "fraction": pyarrow.float64(),
    "truth": pyarrow.bool_(),
}
#: How Hugging Face's `datasets` knows a picture (`datasets.Image`).
_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
#: Pictures in memory at once.
_ROW_GROUP = 100


def webdataset_shard(shard: Shard, rows: Rows, columns: Columns, pictures: Path, into: Path) -> list[str]:
    """`00000.tar` of `KEY.png`, `KEY.txt`, `KEY.json`; `00000.parquet` with all rows: as img2dataset lays it out."""
    tar, table = f"{shard.name}.tar", f"{shard.name}.parquet"
    with (into / tar).open("wb") as file:
        with webdataset.TarWriter(file, encoder=False, compress=False, mtime=0) as writer:
            for row in _made(rows):
                writer.write(
                    {
                        "__key__": row["key"],
                        "png": (pictures / f"{row['key']}.png").read_bytes(),
                        "txt": row["prompt"].encode(),
                        "json": _line(row).encode(),
                    }
                )
        to_disk(file)
    _write_table(into / table, _schema(columns), [rows])
    return [tar, table]


def parquet_shard(shard: Shard, rows: Rows, columns: Columns, pictures: Path, into: Path) -> list[str]:
    """`00000.parquet` with all rows, the pictures within (null where there is none)."""
    name = f"{shard.name}.parquet"
    schema = _schema(columns).insert(0, pyarrow.field("image", _IMAGE))
    features = {"image": {"_type": "Image"}, **{field.name: _feature(field.type) for field in _schema(columns)}}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    def groups() -> Iterator[Rows]:
        for first in range(0, len(rows), _ROW_GROUP):
            yield [{**row, "image": _picture(row, pictures)} for row in rows[first : first + _ROW_GROUP]]

    _write_table(into / name, schema, groups())
    return [name]


def imagefolder_shard(shard: Shard, rows: Rows, columns: Columns, pictures: Path, into: Path) -> list[str]:
    """A folder `00000` of `KEY.png` and `metadata.jsonl`; rows without a picture are in `00000_failed.jsonl`."""
    folder, failed = into / shard.name, f"{shard.name}_failed.jsonl"
    folder.mkdir()
    made = [{"file_name": f"{row['key']}.png", **columns.without_null(row)} for row in _made(rows)]
    for row in made:
        # Copied, not linked: disks that people carry away (exFAT) and many network folders have no hard links.
        write_down(folder / row["file_name"], (pictures / row["file_name"]).read_bytes())
    write_down(folder / "metadata.jsonl", _lines(made))
    missing = [row for row in rows if row["status"] != "success"]
    if not missing:
        return [shard.name]
    write_down(into / failed, _lines(missing))
    return [shard.name, failed]


FORMATS: Mapping[str, Format] = {
    # Beside its tar, as img2dataset has it.
    "webdataset": Format(write=webdataset_shard, stats_in=""),
    # Apart: who reads a whole folder takes every file in it for a table.
    "parquet": Format(write=parquet_shard, stats_in=f"{PAPERS}/"),
    "imagefolder": Format(write=imagefolder_shard, stats_in=f"{PAPERS}/"),
}


def _made(rows: Rows) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["status"] == "success")


def _picture(row: Mapping[str, Any], pictures: Path) -> dict[str, Any] | None:
    if row["status"] != "success":
        return None
    name = f"{row['key']}.png"
    return {"bytes": (pictures / name).read_bytes(), "path": name}


def _schema(columns: Columns) -> pyarrow.Schema:
    return pyarrow.schema([pyarrow.field(name, _ARROW[kind]) for name, kind in columns.kinds.items()])


def _feature(kind: pyarrow.DataType) -> dict[str, str]:
    names = {pyarrow.float64(): "float64", pyarrow.bool_(): "bool"}
    return {"_type": "Value", "dtype": names.get(kind, str(kind))}


def _write_table(path: Path, schema: pyarrow.Schema, groups: Iterator[Rows] | Sequence[Rows]) -> None:
    with path.open("wb") as file:
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd", store_schema=True) as writer:
            for group in groups:
                writer.write_table(pyarrow.Table.from_pylist([*group], schema=schema))
        to_disk(file)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def _lines(rows: Rows) -> bytes:
    return "".join(_line(row) + "\n" for row in rows).encode()
