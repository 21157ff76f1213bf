"""Prompt files, read as a stream: text, tables, JSON and Parquet, as people and other tools write them.

What stands in them is read in `scheduler.intake.files`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.intake.files import delimited, forms, json_values, other_tools, parquet, pasted, plain
from scheduler.intake.files.alike import RowsAlike
from scheduler.intake.files.columns import Row
from scheduler.intake.files.text import head, read_lines
from scheduler.intake.requests import BadRows, SourcedRequest, at
from storage.errors import BadSpecification, InvalidInput
from storage.spec.controls import REFERENCE
from storage.spec.picture import Request

KINDS = tuple(forms.KINDS)
#: The fields that name inputs, in letters alone, as bytes of any encoding leave them.
_INPUTS = re.compile(b"controlimages|promptembeds")
_BESIDE_LETTERS = b"\0 _-"


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
    #: What separates the cells of a table; None: its header tells.
    delimiter: str | None = None


def manifest(path: Path, *, kind: str | None = None, delimiter: str | None = None) -> Manifest:
    """Return a prompt file of this kind, or of the kind of its suffix."""
    suffix = path.suffix.lower().removeprefix(".")
    return Manifest(path=path, kind=kind or suffix, shown=str(path), folder=path.parent, delimiter=delimiter)


def read_manifest(manifest: Manifest, *, bad: BadRows | None = None) -> Iterator[SourcedRequest]:
    """Yield the requests of a prompt file, in order.

    Raises InvalidInput if the file cannot be read or is of no known kind, BadSpecification naming the first wrong
    line, unless `bad` leaves such lines out or gathers them, and where there is no prompt at all.
    """
    if manifest.kind not in KINDS:
        raise InvalidInput(f"{manifest.shown}: not a prompt file; expected {', '.join(f'.{name}' for name in KINDS)}")
    bad = bad or BadRows()
    before, count, alike = bad.left_out, 0, RowsAlike()
    for row in _rows(manifest, bad):
        count += 1
        try:
            request, like = alike.request_of(row)
        except BadSpecification as error:
            bad.met(at(row.where, error))
        else:
            yield SourcedRequest(row.where, _anchored(request, manifest.folder), row.copies, like)
    if not count and bad.left_out == before:
        raise BadSpecification(f"{manifest.shown}: no prompts in this file")


def names_inputs(manifest: Manifest) -> bool:
    """Return whether the file may name conditioning images or embeddings: much faster than parsing its rows."""
    try:
        with manifest.path.open("rb") as file:
            window = b""
            while piece := file.read(2**20):
                window = window[-20:] + piece.translate(None, _BESIDE_LETTERS).lower()
                if _INPUTS.search(window):
                    return True
            return False
    except OSError:
        # The reader reports it.
        return False


def _rows(manifest: Manifest, bad: BadRows) -> Iterator[Row]:
    shown = manifest.shown
    try:
        with manifest.path.open("rb") as file:
            try:
                form = forms.form_of(manifest.kind, head(file), separator=manifest.delimiter)
            except BadSpecification as error:
                raise BadSpecification(f"{shown} {error}") from None
            match form:
                case "parquet":
                    yield from parquet.rows(manifest.path, shown)
                case "json values":
                    yield from other_tools.rows(json_values.rows_of_values(file, shown, bad), bad)
                case "table":
                    # A line that is no text may be half of a row.
                    lines = read_lines(file, shown, BadRows())
                    yield from delimited.rows(lines, shown, bad, separator=manifest.delimiter)
                case "json lines":
                    objects = json_values.rows_of_lines(read_lines(file, shown, bad), bad)
                    yield from other_tools.rows(objects, bad)
                case "pasted":
                    yield from pasted.rows(read_lines(file, shown, bad), bad)
                case "plain":
                    yield from plain.rows(read_lines(file, shown, bad), bad)
    except OSError as error:
        raise InvalidInput(f"{shown}: {error.strerror or error}") from None


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
