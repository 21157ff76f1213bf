"""Parquet with the pictures within, as Hugging Face's `datasets` reads it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow

from scheduler.export.formats import Format, Rows
from scheduler.export.plan import Shard
from scheduler.export.rows import Columns
from scheduler.export.tables import schema_of, write_table
from scheduler.export.targets import PAPERS

#: How `datasets.Image` is stored.
_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
#: Pictures in memory at once.
_ROW_GROUP = 100


def write(shard: Shard, rows: Rows, columns: Columns, pictures: Iterator[bytes], into: Path) -> list[str]:
    """`00000.parquet` with all rows; the picture is null where there is none."""
    name = f"{shard.name}.parquet"
    fields = schema_of(columns)
    features = {"image": {"_type": "Image"}, **{field.name: _feature(field.type) for field in fields}}
    schema = fields.insert(0, pyarrow.field("image", _IMAGE))
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    def groups() -> Iterator[Rows]:
        for first in range(0, len(rows), _ROW_GROUP):
            yield [{**row, "image": _picture(row, pictures)} for row in rows[first : first + _ROW_GROUP]]

    write_table(into / name, schema, groups())
    return [name]


def _picture(row: Mapping[str, Any], pictures: Iterator[bytes]) -> dict[str, Any] | None:
    if row["status"] != "success":
        return None
    return {"bytes": next(pictures), "path": f"{row['key']}.png"}


def _feature(kind: pyarrow.DataType) -> dict[str, str]:
    names = {pyarrow.float64(): "float64", pyarrow.bool_(): "bool"}
    return {"_type": "Value", "dtype": names.get(kind, str(kind))}


# Apart: who reads a whole folder takes every file in it for a table.
FORMAT = Format(name="parquet", write=write, stats_in=f"{PAPERS}/")
