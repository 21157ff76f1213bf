"""Rows alike: what rows with the same columns say of the same values beside prompt, seed, name and labels.

A manifest of a million rows has a handful of such likenesses. What its rows have in common is checked with the first of
each; of the others only what differs is looked at. What is not plain is left to `request_of`, which has the last word.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from scheduler.intake.files.columns import REMEMBERED, Row, is_told_text, read_label, request_of, split
from storage.errors import BadSpecification
from storage.spec.copies import copied
from storage.spec.kinds import is_plain, is_plain_text
from storage.spec.picture import MAX_CUSTOM_ID_CHARACTERS, MAX_LABEL_BYTES, Request

#: Likenesses that are remembered, and characters of what they are known by: each row may have another negative prompt.
_MOST, _LONGEST = 1_000, 2_000
#: JSON writes a character in six bytes at most, and a number in fewer than 30.
_SURELY_FIT, _OF_A_NUMBER = MAX_LABEL_BYTES // 7, 30
_MOST_LABELS = 50
_SURELY_WRITTEN = 2**63
#: Digits of numbers that are seeds in any case.
_SEED_DIGITS = 18

_Said = tuple[str, int | None, str | None, dict[str, Any] | None]


class Likeness:
    """What requests have in common that differ in nothing but prompt, seed, name and labels."""

    def __init__(self, first: Request) -> None:
        """Take one of them. Whether each of the four was given is the same for all."""
        self._first = first

    def request(self, said: _Said) -> Request:
        prompt, seed, name, labels = said
        return copied(self._first, {"prompt": prompt, "seed": seed, "custom_id": name, "labels": labels})


class RowsAlike:
    """Parses the rows of one file as `request_of` does."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, ...], _Columns | None] = {}
        self._remembered = 0

    def request_of(self, row: Row) -> tuple[Request, Likeness | None]:
        """Return a row's request, and what it is alike in with others, if that is known. Raises BadSpecification."""
        names = tuple(row.cells)
        columns = self._columns[names] if names in self._columns else self._new(names)
        if columns is None:
            return request_of(row), None
        said = columns.said(row.cells) if row.typed else columns.told(row)
        if said is None:
            return request_of(row), None
        _, seed, name, labels = said
        shared = columns.shared(row.cells)
        asked = (row.typed, row.decimal_comma, row.of_a_table, seed is None, name is None, labels is None, shared)
        known = columns.known.get(asked)
        if known is not None:
            return known.request(said), known
        return self._first(row, columns, asked)

    def _first(self, row: Row, columns: "_Columns", asked: tuple[Any, ...]) -> tuple[Request, Likeness | None]:
        request = request_of(row)
        if len(asked[-1]) > _LONGEST or request.control_images is not None or request.prompt_embeds is not None:
            # Of files that are named, the folder matters, too.
            return request, None
        self._make_room()
        known = columns.known[asked] = Likeness(request)
        return request, known

    def _new(self, names: tuple[str, ...]) -> "_Columns | None":
        if sum(map(len, names)) > REMEMBERED:
            return None
        self._make_room()
        found = self._columns[names] = _columns_of(names)
        return found

    def _make_room(self) -> None:
        if self._remembered >= _MOST:
            for columns in self._columns.values():
                if columns is not None:
                    columns.known.clear()
            self._columns.clear()
            self._remembered = 0
        self._remembered += 1


class _Columns(NamedTuple):
    """Which columns of a row are what; each of the first three may be missing."""

    prompt: str
    seed: str | None
    name: str | None
    labels: tuple[str, ...]
    others: tuple[str, ...]
    known: dict[tuple[Any, ...], Likeness]

    def shared(self, cells: Mapping[str, Any]) -> str:
        """Return all that a row says besides, as it is written: 1, 1.0, True, 0.0 and -0.0 are not all the same."""
        return repr([cells[name] for name in self.others]) if self.others else ""

    def said(self, cells: Mapping[str, Any]) -> _Said | None:
        """Return what typed cells say of one picture alone; None unless it is plain."""
        prompt = cells[self.prompt]
        seed = None if self.seed is None else cells[self.seed]
        name = None if self.name is None else cells[self.name]
        if not is_plain(prompt, 0 if seed is None else seed) or not (name is None or _is_plain_name(name)):
            return None
        if not self.labels:
            return prompt, seed, name, None
        labels = {label: cell for label in self.labels if (cell := cells[label]) is not None}
        return (prompt, seed, name, labels or None) if _are_plain_labels(labels.values()) else None

    def told(self, row: Row) -> _Said | None:
        """Return the same of cells that are all text; an empty one counts as left out."""
        cells = row.cells
        prompt = cells[self.prompt]
        if not is_plain(prompt, 0) or (row.of_a_table and not is_told_text(prompt)):
            return None
        digits = _filled(cells, self.seed)
        if digits is not None and not _is_plain_number(digits):
            return None
        name = _filled(cells, self.name)
        if name is not None and not (_is_plain_name(name) and (not row.of_a_table or is_told_text(name))):
            return None
        labels = {label: read_label(cell) for label in self.labels if (cell := _filled(cells, label)) is not None}
        if not _are_plain_labels(labels.values()):
            return None
        return prompt, None if digits is None else int(digits), name, labels or None


def _columns_of(names: tuple[str, ...]) -> _Columns | None:
    """Return which columns are what; None without a prompt, with a column that is called labels, and for very many."""
    try:
        fields, others = split(names)
    except BadSpecification:
        return None
    column_of = dict(fields)
    if "prompt" not in column_of or "labels" in column_of or len(others) > _MOST_LABELS:
        return None
    if not all(map(is_plain_text, others)) or sum(map(len, others)) > _SURELY_FIT // 2:
        return None
    of_one = {"prompt", "seed", "custom_id"}
    shared = tuple(name for field, name in fields if field not in of_one)
    return _Columns(column_of["prompt"], column_of.get("seed"), column_of.get("custom_id"), others, shared, {})


def _filled(cells: Mapping[str, str], column: str | None) -> str | None:
    cell = None if column is None else cells[column]
    return cell if cell and not cell.isspace() else None


def _is_plain_number(digits: str) -> bool:
    return len(digits) <= _SEED_DIGITS and digits.isascii() and digits.isdigit() and (digits[0] != "0" or digits == "0")


def _is_plain_name(name: object) -> bool:
    return type(name) is str and 0 < len(name) <= MAX_CUSTOM_ID_CHARACTERS and is_plain_text(name) and "\0" not in name


def _are_plain_labels(values: Collection[object]) -> bool:
    """Return whether labels are certainly fit to be stored."""
    room = _SURELY_FIT // 2
    for value in values:
        kind = type(value)
        if kind is str:
            room -= len(value)  # type: ignore[arg-type]
            if not is_plain_text(value):  # type: ignore[arg-type]
                return False
        elif kind is int:
            room -= _OF_A_NUMBER
            if not -_SURELY_WRITTEN < value < _SURELY_WRITTEN:  # type: ignore[operator]
                return False
        elif kind is float:
            room -= _OF_A_NUMBER
            if not math.isfinite(value):  # type: ignore[arg-type]
                return False
        elif kind is not bool:
            return False
    return room >= 0
