"""Prompt files in Parquet, one column per field, read in batches. Needs the extra `datasets`."""

import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from storage.errors import BadSpecification

#: Rows in memory at once, as far as the file's own row groups allow.
_ROWS = 1000
_WHOLE = {
    *("width", "height", "num_inference_steps", "steps", "seed", "clip_skip"),
    *("prior_num_inference_steps", "prior_steps"),
}


def rows(path: Path, shown: str) -> Iterator[dict[str, Any]]:
    """Yield each row's cells; empty ones (null, NaN) are left out.

    Raises BadSpecification if this is no Parquet, or has no column that could be a prompt or a label.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "prompt" not in names and "prompt_embeds" not in names:
                raise BadSpecification(f"{shown}: expected a column named prompt; found {', '.join(names)}")
            for field in file.schema_arrow:
                if pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
                    raise BadSpecification(f"{shown}: the column {field.name} holds bytes, which cannot be a label")
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield {name: _plain(name, cell) for name, cell in row.items() if not _missing(cell)}
    except pyarrow.ArrowException as error:
        raise BadSpecification(f"{shown}: not Parquet ({str(error).splitlines()[0].rstrip('.')})") from None


def _missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _plain(name: str, cell: Any) -> Any:
    """Return a value that JSON can write."""
    if isinstance(cell, float) and cell.is_integer() and name in _WHOLE:
        # Pandas writes integer columns with gaps as floats.
        return int(cell)
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal | datetime.timedelta):
        return str(cell)
    if isinstance(cell, list):
        return [_plain("", item) for item in cell]
    if isinstance(cell, dict):
        return {key: _plain("", item) for key, item in cell.items()}
    return cell
