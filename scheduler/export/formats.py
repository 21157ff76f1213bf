"""What the layouts share. Each is a module of its own: the library that one of them needs, others do without.

The same rows and pictures give the same bytes: no time of writing is in them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.export.plan import Shard
from scheduler.export.rows import Columns

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout."""

    name: str
    #: Writes a shard into a folder, the last argument; the names of what is there then. The argument before it yields
    #: the picture of each row that succeeded, in their order.
    write: Callable[[Shard, Rows, Columns, Iterator[bytes], Path], list[str]]
    #: Where the `…_stats.json` of each shard goes.
    stats_in: str
    #: Which files `load_dataset(DIR)` is to read, if others lie beside them.
    data_files: str | None = None


def made(rows: Rows) -> Iterator[Mapping[str, Any]]:
    """Those that have a picture."""
    return (row for row in rows if row["status"] == "success")


def line(row: Mapping[str, Any]) -> str:
    """A row as JSON."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def lines(rows: Rows) -> bytes:
    """Rows as a file of JSON lines."""
    return "".join(line(row) + "\n" for row in rows).encode()
