"""Rows as Parquet, through Arrow."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet

from scheduler.export.formats import Rows
from scheduler.export.rows import Columns, Kind

_ARROW: Mapping[Kind, pyarrow.DataType] = {
    "text": pyarrow.string(),
    "whole": pyarrow.int64(),
    "fraction": pyarrow.float64(),
    "truth": pyarrow.bool_(),
}


def schema_of(columns: Columns) -> pyarrow.Schema:
    """The same for all shards of a render."""
    return pyarrow.schema([pyarrow.field(name, _ARROW[kind]) for name, kind in columns.kinds.items()])


def write_table(path: Path, schema: pyarrow.Schema, groups: Iterable[Rows]) -> None:
    """Each group is a row group of the file; one is in memory at a time."""
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", store_schema=True) as writer:
        for group in groups:
            writer.write_table(pyarrow.Table.from_pylist([*group], schema=schema))
