"""Prompt files, read as a stream: `.txt` (one prompt per line), `.jsonl`, `.csv` and `.parquet` (any fields).

A column that is no field of the specification is kept as a label, and travels with its picture to the exports.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scheduler.intake.requests import BadRows, SourcedRequest, at
from storage.errors import BadSettings, BadSpecification, InvalidInput
from storage.spec.controls import REFERENCE
from storage.spec.picture import NAMES, Request

#: A longer line is no prompt but another kind of file; it is not read into memory.
MAX_LINE = 4_000_000

Parse = Callable[[Mapping[str, Any]], Request]
#: Bytes that are not UTF-8, as the error handler `surrogateescape` passes them on.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ENDS = ("\n", "\r")

#: A row's place, its cells, and their parser.
Row = tuple[str, Mapping[str, Any], Parse]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Hold a prompt file on this machine, which can be read repeatedly."""

    path: Path
    #: One of `KINDS`.
    kind: str
    #: Its name in messages.
    shown: str
    #: The folder that relative file names in it start from.
    folder: Path


def manifest(path: Path, *, kind: str | None = None) -> Manifest:
    """Return a prompt file of this kind, or of the kind of its suffix."""
    return Manifest(path=path, kind=kind or path.suffix.lower().removeprefix("."), shown=str(path), folder=path.parent)


def read_manifest(manifest: Manifest, *, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
    """Yield the requests of a prompt file, in order.

    Raises InvalidInput if the file cannot be read or is of no known kind, BadSpecification naming the first wrong
    line, unless `bad` leaves such lines out, and where there is no prompt at all.
    """
    if manifest.kind not in KINDS:
        raise InvalidInput(f"{manifest.shown}: not a prompt file; expected {', '.join(f'.{name}' for name in KINDS)}")
    bad = bad or BadRows()
    before, count = bad.left_out, 0
    for where, cells, parse in _rows(manifest, bad):
        count += 1
        try:
            request = parse(cells)
        except BadSpecification as error:
            bad.met(at(where, error))
        else:
            yield SourcedRequest(where, _anchored(request, manifest.folder))
    if not count and bad.left_out == before:
        raise BadSpecification(f"{manifest.shown}: no prompts in this file")


def names_inputs(manifest: Manifest) -> bool:
    """Return whether the file may name conditioning images or embeddings: much faster than parsing its rows."""
    try:
        with manifest.path.open("rb") as file:
            window = b""
            while piece := file.read(2**20):
                window = window[-20:] + piece
                if b"control_images" in window or b"prompt_embeds" in window:
                    return True
            return False
    except OSError:
        # The reader reports it.
        return False


def _rows(manifest: Manifest, bad: BadRows) -> Iterator[Row]:
    try:
        if manifest.kind == "parquet":
            yield from _read_parquet(manifest.path, manifest.shown)
            return
        # utf-8-sig: spreadsheets often write a byte order mark.
        with manifest.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from _READERS[manifest.kind](file, manifest.shown, bad)
    except OSError as error:
        raise InvalidInput(f"{manifest.shown}: {error.strerror or error}") from None


def _anchored(request: Request, folder: Path) -> Request:
    """Resolve the files that a row names relative to the folder of its prompt file."""
    if request.control_images is None and request.prompt_embeds is None:
        return request

    def seen(name: str) -> str:
        return name if REFERENCE.fullmatch(name) else str(folder / name)

    changed: dict[str, object] = {}
    if request.control_images is not None:
        changed["control_images"] = tuple(map(seen, request.control_images))
    if request.prompt_embeds is not None:
        changed["prompt_embeds"] = seen(request.prompt_embeds)
    return request.model_copy(update=changed)


# -- rows ------------------------------------------------------------------------------------------------------


def _read_txt(file: IO[str], shown: str, bad: BadRows) -> Iterator[Row]:
    for where, line in _lines(file, shown, bad):
        if line.strip():
            yield where, {"prompt": line.strip()}, Request.parse


def _read_jsonl(file: IO[str], shown: str, bad: BadRows) -> Iterator[Row]:
    for where, line in _lines(file, shown, bad):
        if not line.strip():
            continue
        try:
            row = json.loads(line.strip())
        except (ValueError, RecursionError) as error:  # ValueError: also for numbers of thousands of digits
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            bad.met(BadSpecification(f"{where}: not JSON: {reason}"))
            continue
        if isinstance(row, dict):
            yield where, row, _parse_typed
        else:
            bad.met(BadSpecification(f'{where}: expected an object such as {{"prompt": "a red star"}}'))


def _read_csv(file: IO[str], shown: str, bad: BadRows) -> Iterator[Row]:
    reader = csv.DictReader((line for _, line in _lines(file, shown, BadRows())), strict=True)
    try:
        names = reader.fieldnames or ()
        if "prompt" not in names:
            raise BadSpecification(f"{shown} line 1: expected a header with a column named prompt")
        if not all(names):
            raise BadSpecification(f"{shown} line 1: a column has no name")
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise BadSpecification(f"{shown} line 1: duplicate column {twice[0]}")
        for row in reader:
            where = f"{shown} line {reader.line_num}"
            if None in row or None in row.values():
                bad.met(BadSpecification(f"{where}: expected {len(names)} cells"))
            else:
                yield where, row, _parse_text
    except csv.Error as error:
        # After an unclosed quote no later row can be recognised.
        raise BadSpecification(f"{shown} line {reader.line_num}: not CSV: {error}") from None


def _read_parquet(path: Path, shown: str) -> Iterator[Row]:
    # Of the extra `datasets`: needed only for such files.
    try:
        from scheduler.intake.parquet import rows
    except ImportError:
        raise BadSettings('Parquet files cannot be read; run `pip install "diffusion-farm[datasets]"`') from None

    for number, row in enumerate(rows(path, shown), start=1):
        yield f"{shown} row {number}", row, _parse_typed


def _lines(file: IO[str], shown: str, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yield every line with its place. Of a line that is too long only the beginning is ever in memory."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        where = f"{shown} line {number}"
        if len(line) == MAX_LINE and not line.endswith(_ENDS):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(_ENDS):
                pass
            bad.met(BadSpecification(f"{where}: longer than {MAX_LINE:,} characters; is this a prompt file?"))
        elif not line.isascii() and (wrong := _NOT_UTF8.search(line)):
            byte = ord(wrong[0]) - 0xDC00
            bad.met(BadSpecification(f"{where}: not UTF-8 text (byte {byte:#04x} after {wrong.start()} characters)"))
        else:
            yield where, line


# -- cells -----------------------------------------------------------------------------------------------------


def _parse_typed(row: Mapping[str, Any]) -> Request:
    """Parse typed cells (JSON, Parquet)."""
    if row.keys() <= NAMES:
        return Request.parse(row)
    fields, labels = _split(row)
    said = fields.get("labels") or {}
    if not isinstance(said, dict) or (twice := said.keys() & labels.keys()):
        raise BadSpecification(
            f"labels: {min(twice)} is also a column" if isinstance(said, dict) else "labels: must be an object"
        )
    return Request.parse({**fields, "labels": {**labels, **said}})


def _parse_text(row: Mapping[str, str]) -> Request:
    """Parse cells that are all text (CSV); an empty one counts as missing."""
    fields, labels = _split({name: cell for name, cell in row.items() if cell != ""})
    return Request.parse_strings(fields, labels or None)


def _split(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a row into the fields of a specification and the rest."""
    fields = {name: cell for name, cell in row.items() if name in NAMES}
    return fields, {name: cell for name, cell in row.items() if name not in NAMES}


_READERS: dict[str, Callable[[IO[str], str, BadRows], Iterator[Row]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
}
KINDS = (*_READERS, "parquet")
