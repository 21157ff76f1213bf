"""Prompt files: `.txt` (a prompt a line), `.jsonl` and `.csv` (any fields of the specification), read as a stream."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from storage.controls import REFERENCE
from storage.errors import BadSpecification, InvalidInput
from storage.spec import Request


def read_manifest(path: Path) -> Iterator[Request]:
    """The requests of a prompt file, in its order.

    Raises InvalidInput if the file cannot be read or is of no known kind, BadSpecification naming the first wrong
    line, also when there is no prompt at all.
    """
    rows = _READERS.get(path.suffix.lower())
    if rows is None:
        raise InvalidInput(f"{path}: prompt files are {', '.join(_READERS)}")
    try:
        # utf-8-sig: spreadsheets like to begin with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            count = 0
            for count, request in enumerate(rows(file, path), start=1):  # noqa: B007 - counted
                yield _anchored(request, path.parent)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadSpecification(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not count:
        raise BadSpecification(f"{path}: no prompt in this file")


def names_inputs(path: Path) -> bool:
    """Whether the file may name conditioning images or embeddings: a glance, much faster than reading its rows."""
    try:
        with path.open("rb") as file:
            return any(b"control_images" in line or b"prompt_embeds" in line for line in file)
    except OSError:
        # Reading it will say why.
        return False


def _anchored(request: Request, folder: Path) -> Request:
    """Files that a prompt file names are meant as seen from its folder."""

    def seen(name: str) -> str:
        return name if REFERENCE.fullmatch(name) else str(folder / name)

    changed: dict[str, object] = {}
    if request.control_images is not None:
        changed["control_images"] = tuple(map(seen, request.control_images))
    if request.prompt_embeds is not None:
        changed["prompt_embeds"] = seen(request.prompt_embeds)
    return request.model_copy(update=changed) if changed else request


def _lines(file: IO[str], path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place for messages."""
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield line.strip(), f"{path} line {number}"


def _read_txt(file: IO[str], path: Path) -> Iterator[Request]:
    for line, where in _lines(file, path):
        yield _checked(Request.parse, {"prompt": line}, where)


def _read_jsonl(file: IO[str], path: Path) -> Iterator[Request]:
    for line, where in _lines(file, path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also for numbers of thousands of digits
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadSpecification(f"{where}: not JSON: {reason}") from None
        if not isinstance(row, dict):
            raise BadSpecification(f'{where}: expected an object such as {{"prompt": "a red star"}}')
        yield _checked(Request.parse, row, where)


def _read_csv(file: IO[str], path: Path) -> Iterator[Request]:
    reader = csv.DictReader(file, strict=True)
    try:
        if "prompt" not in (reader.fieldnames or ()):
            raise BadSpecification(f"{path} line 1: expected a header with a column named prompt")
        if twice := [name for name, n in Counter(reader.fieldnames).items() if n > 1]:
            raise BadSpecification(f"{path} line 1: the column {twice[0]} is there twice")
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if None in row or None in row.values():
                raise BadSpecification(f"{where}: expected {len(reader.fieldnames or ())} cells")
            yield _checked(Request.parse_strings, row, where)
    except csv.Error as error:
        raise BadSpecification(f"{path} line {reader.line_num}: not CSV: {error}") from None


def _checked(parse: Callable[[Any], Request], row: dict[str, Any], where: str) -> Request:
    try:
        return parse(row)
    except BadSpecification as error:
        raise BadSpecification(f"{where}: {error}") from None


_READERS: dict[str, Callable[[IO[str], Path], Iterator[Request]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
