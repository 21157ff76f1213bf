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
                for cells in batch.to_pylist(maps_as_pydicts="strict"):
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
        if pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
            raise BadSpecification(f"{shown}: the column {field.name} holds bytes, which cannot be a label")


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
