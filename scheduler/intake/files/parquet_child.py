"""Read a Parquet file in a process of its own, which may take so much memory and no more.

A cell of a hundred million letters takes ten kilobytes in a file, and nothing in the file says so: its sizes are what
its writer claims. So the file is unpacked here, and only rows of bearable length leave, a line of JSON each:

    {"columns": [[NAME, "" | "bytes" | "decimal"]], "rows": NUMBER}   first
    [NUMBER, {NAME: CELL}]                                            for each row
    {"wrong": WORDS} or {"end": true}                                 last

Whoever reads them checks what the columns mean (`scheduler.intake.files.parquet`): of the farm, this imports nothing.
"""

import datetime
import decimal
import json
import math
import re
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

#: Rows in memory at once.
_ROWS = 1000
#: Of a file in memory at once.
_BUFFER_BYTES = 2**20
#: Where Pandas keeps the row numbers of a table of which rows were taken out.
_INDEX = re.compile(r"__index_level_\d+__")


def main(path: str, most_bytes: str, longest: str) -> None:
    """Write the rows of a file to standard output; `longest`: characters of a row, as JSON."""
    # Ctrl-C reaches the whole group; the reader ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(int(most_bytes))
    try:
        for said in _said(path, int(longest)):
            sys.stdout.write(said + "\n")
        sys.stdout.write('{"end": true}\n')
        sys.stdout.flush()
    except MemoryError:
        # Without a last line, the reader says so.
        sys.exit(1)
    except BrokenPipeError:
        # Nobody reads any more.
        sys.stdout = None


def _limit(n_bytes: int) -> None:
    """Limit memory to what is taken now, by Python and the library, and so many bytes more."""
    statm = Path("/proc/self/statm")
    taken = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (taken + n_bytes, resource.RLIM_INFINITY))


def _said(path: str, longest: int) -> Iterator[str]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            # As pairs: two columns may have one name, which the reader refuses.
            columns = [(field.name, _kind(field.type)) for field in file.schema_arrow]
            yield json.dumps({"columns": columns, "rows": file.metadata.num_rows})
            if any(kind == "bytes" for _, kind in columns):
                return
            for batch in file.iter_batches(_ROWS, use_threads=False):
                for cells in _as_written(batch).to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    said = json.dumps([number, _plain_row(cells)])
                    if len(said) > longest:
                        yield _wrong(f"row {number}: longer than {longest:,} characters; is this a prompt file?")
                        return
                    yield said
    except pyarrow.ArrowMemoryError:
        raise MemoryError from None
    except pyarrow.ArrowException as error:
        yield _wrong(f"not Parquet ({str(error).splitlines()[0].rstrip('.')[:200]})")
    except ValueError as error:
        # Such as text that is no UTF-8, moments in nanoseconds, a map with one key twice.
        yield _wrong(f"the rows after row {number} cannot be read ({str(error)[:200]})")


def _wrong(words: str) -> str:
    return json.dumps({"wrong": words})


def _kind(kind: pyarrow.DataType) -> str:
    if _holds_bytes(kind):
        return "bytes"
    return "decimal" if pyarrow.types.is_decimal(kind) else ""


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


def _plain_row(cells: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(cell) for name, cell in cells.items() if not _INDEX.fullmatch(name)}


def _plain(cell: Any) -> Any:
    """Return a value that JSON can write; None where there is none."""
    if isinstance(cell, float) and math.isnan(cell):
        return None
    if isinstance(cell, list | dict):
        return _inner(cell)
    return _scalar(cell)


def _inner(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_inner(item) for item in cell]
    if isinstance(cell, dict):
        # A structure has every key in every row.
        return {key: _inner(item) for key, item in cell.items() if item is not None}
    return _scalar(cell)


def _scalar(cell: Any) -> Any:
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal | datetime.timedelta):
        return str(cell)
    return cell


if __name__ == "__main__":
    main(*sys.argv[1:])
