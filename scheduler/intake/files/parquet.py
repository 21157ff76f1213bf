"""Prompt files in Parquet, one column per field, read in batches. Needs the extra `datasets`."""

import datetime
import decimal
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from scheduler.intake.files.columns import Row, check_columns, field_of, is_empty
from scheduler.intake.files.delimited import has_prompts
from storage.errors import BadSpecification

#: Rows in memory at once, as far as the file's own row groups allow.
_ROWS = 1000
#: Where Pandas keeps the row numbers of a table of which rows were taken out.
_INDEX = re.compile(r"__index_level_\d+__")


def rows(path: Path, shown: str) -> Iterator[Row]:
    """Yield the rows, without their empty cells (null, NaN).

    Raises BadSpecification if this is no Parquet, or has no column that could be a prompt or a label.
    """
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(file.schema_arrow, shown)
            for batch in file.iter_batches(_ROWS):
                for cells in _as_written(batch).to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    plain = {
                        name: None if _missing(cell) else _plain(name, cell)
                        for name, cell in cells.items()
                        if not _INDEX.fullmatch(name)
                    }
                    if not is_empty(plain):
                        said = {name: cell for name, cell in plain.items() if cell is not None}
                        yield Row(f"{shown} row {number}", said)
    except pyarrow.ArrowException as error:
        raise BadSpecification(f"{shown}: not Parquet ({str(error).splitlines()[0].rstrip('.')})") from None


def _check(schema: pyarrow.Schema, shown: str) -> None:
    if not has_prompts(schema.names):
        raise BadSpecification(f"{shown}: expected a column named prompt; found {', '.join(schema.names)}"[:400])
    try:
        check_columns(schema.names)
    except BadSpecification as error:
        raise BadSpecification(f"{shown}: {error}") from None
    for field in schema:
        if _holds_bytes(field.type):
            kept = "text" if field_of(field.name) else "kept as a label; leave the column out"
            raise BadSpecification(f"{shown}: the column {field.name} holds bytes, which cannot be {kept}")


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    """Return whether values of this type are bytes, or have some in them, as the pictures of a dataset have."""
    if any(kind.field(number) and _holds_bytes(kind.field(number).type) for number in range(kind.num_fields)):
        return True
    if pyarrow.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    types = pyarrow.types
    return any(
        is_one(kind)
        for is_one in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    )


def _as_written(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """Return a batch in which 7.1 of single precision is 7.1, as in any other file, and not 7.099999904632568."""
    for number, field in enumerate(batch.schema):
        if pyarrow.types.is_float32(field.type):
            column = batch.column(number).cast(pyarrow.string()).cast(pyarrow.float64())
            batch = batch.set_column(number, field.name, column)
    return batch


def _missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _plain(name: str, cell: Any) -> Any:
    """Return a value that JSON can write."""
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal) and field_of(name) is not None:
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, decimal.Decimal | datetime.timedelta):
        return str(cell)
    if isinstance(cell, list):
        return [_plain("", item) for item in cell]
    if isinstance(cell, dict):
        # A structure has every key in every row.
        return {key: _plain("", item) for key, item in cell.items() if item is not None}
    return cell
