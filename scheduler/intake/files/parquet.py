"""Prompt files in Parquet, one column per field, unpacked by a process of its own. Needs the extra `datasets`."""

import decimal
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from scheduler.intake.files.columns import Row, check_columns, field_of, is_empty
from scheduler.intake.files.delimited import has_prompts
from scheduler.intake.files.text import MAX_LINE
from scheduler.intake.requests import MOST_PICTURES
from storage.errors import BadSettings, BadSpecification

_CHILD = "scheduler.intake.files.parquet_child"
#: What unpacking may take: a thousand rows of the longest prompts and labels, several times over.
_MOST_BYTES = 256 * 2**20
#: Libraries that would take memory for more threads than one, or in advance.
_FRUGAL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def rows(path: Path, shown: str) -> Iterator[Row]:
    """Yield the rows, without their empty cells (null, NaN).

    Raises BadSpecification if this is no Parquet, has no column that could be a prompt or a label, or unpacks to more
    than a prompt file could; BadSettings without the library.
    """
    if find_spec("pyarrow") is None:
        raise BadSettings('Parquet files cannot be read; run `pip install "diffusion-farm[datasets]"`')
    # What cannot be opened is told as of any other file.
    path.open("rb").close()
    with _unpacked(path) as lines:
        decimals: frozenset[str] = frozenset()
        number = 0
        for line in lines:
            said = json.loads(line)
            if isinstance(said, list):
                number, cells = said
                if not is_empty(cells):
                    yield Row(f"{shown} row {number}", _without_gaps(cells, decimals))
            elif "columns" in said:
                _check(said["columns"], said["rows"], shown)
                decimals = frozenset(name for name, kind in said["columns"] if kind == "decimal" and field_of(name))
            elif "wrong" in said:
                raise BadSpecification(f"{shown}{'' if said['wrong'].startswith('row ') else ':'} {said['wrong']}")
            else:
                return
    raise BadSpecification(
        f"{shown}: what follows row {number} takes more than {_MOST_BYTES // 2**20} MiB when it is unpacked; is this a "
        "prompt file?"
    )


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[str]]:
    """Yield what the child says; it ends with whoever reads it."""
    # Not -m alone: it would look for modules in the current folder first.
    command = [sys.executable, "-P", "-m", _CHILD, str(path.absolute()), str(_MOST_BYTES), str(MAX_LINE)]
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, **_FRUGAL},
    ) as child:
        try:
            yield child.stdout  # type: ignore[misc]  # it is a pipe
        finally:
            child.kill()


def _without_gaps(cells: dict[str, Any], decimals: frozenset[str]) -> dict[str, Any]:
    said = {name: cell for name, cell in cells.items() if cell is not None}
    for name in decimals & said.keys():
        exact = decimal.Decimal(said[name])
        said[name] = int(exact) if exact == exact.to_integral_value() else float(exact)
    return said


def _check(columns: list[list[str]], n_rows: int, shown: str) -> None:
    names = [name for name, _ in columns]
    if not has_prompts(names):
        raise BadSpecification(f"{shown}: expected a column named prompt; found {', '.join(names)}"[:400])
    try:
        check_columns(names)
    except BadSpecification as error:
        raise BadSpecification(f"{shown}: {error}") from None
    for name, kind in columns:
        if kind == "bytes":
            kept = "text" if field_of(name) else "kept as a label; leave the column out"
            raise BadSpecification(f"{shown}: the column {name} holds bytes, which cannot be {kept}")
    if n_rows > MOST_PICTURES:
        raise BadSpecification(f"{shown}: {n_rows:,} rows; the most pictures of a render are {MOST_PICTURES:,}")
