"""Rows as JSON: an object per line, or one list of objects, read as a stream."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from scheduler.intake.files.columns import Row, is_empty
from scheduler.intake.files.json_text import read_json, read_value, values_of
from scheduler.intake.files.text import MAX_LINE, decoded
from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification

_PIECE = 2**16
#: Of one row; a picture's fields are some dozens.
_MOST_VALUES = 100_000
_TOO_MANY = f"a row of more than {_MOST_VALUES:,} values or commas; is this a prompt file?"
_LETTER = re.compile(r"[^ \t\r\n]")
_EXPECTED = 'expected an object such as {"prompt": "a red star"}'


def rows_of_lines(lines: Iterator[tuple[str, str]], bad: BadRows) -> Iterator[Row]:
    """Yield the objects of JSON lines; empty lines are passed over."""
    for where, line in lines:
        if not (said := line.strip()):
            continue
        if len(said) > _MOST_VALUES and values_of(said) > _MOST_VALUES:
            bad.met(BadSpecification(f"{where}: {_TOO_MANY}"))
            continue
        try:
            value = parse_json(said)
        except BadSpecification as error:
            bad.met(BadSpecification(f"{where}: {error}"))
            continue
        if isinstance(value, dict) and not is_empty(value):
            yield Row(where, value)
        else:
            yield from _row(where, value, bad)


def rows_of_values(file: IO[bytes], shown: str, bad: BadRows) -> Iterator[Row]:
    """Yield the objects of a list, or of objects that follow one another, however they are broken into lines.

    Raises BadSpecification where the file is not JSON: after that nothing can be recognised.
    """
    with decoded(file) as text:
        for number, (line, value) in enumerate(_Values(text, shown), start=1):
            yield from _row(f"{shown} row {number} (line {line})", value, bad)


def parse_json(text: str) -> Any:
    """Parse JSON. Raises BadSpecification, also for an object that has a key twice."""
    try:
        return read_json(text)
    except BadSpecification:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also for numbers of thousands of digits
        raise BadSpecification(f"not JSON: {_reason(error)}") from None


def is_json(text: str) -> bool:
    """Return whether this is a whole JSON value."""
    try:
        parse_json(text)
    except BadSpecification:
        return False
    return True


def _row(where: str, value: Any, bad: BadRows) -> Iterator[Row]:
    if not isinstance(value, dict):
        bad.met(BadSpecification(f"{where}: {_EXPECTED}"))
    elif not is_empty(value):
        yield Row(where, value)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    # What Python says of a long number is for those who write Python.
    return str(error) if isinstance(error, RecursionError) else "a number of thousands of digits"


class _Values:
    """Iterate over values with the lines that they begin on; only one value at a time is in memory."""

    def __init__(self, text: IO[str], shown: str) -> None:
        self._text = text
        self._shown = shown
        self._held = ""
        #: How much of what is held was read, and on which line that is.
        self._at = 0
        self._line = 1

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        try:
            in_list = self._next_character() == "["
            self._at += in_list
            first = True
            while (character := self._next_character()) and character != "]":
                if in_list and not first:
                    if character != ",":
                        raise self._wrong("expected a comma before the next object")
                    self._at += 1
                    self._next_character()
                yield self._line, self._value()
                first = False
            self._end(character, in_list=in_list)
        except UnicodeDecodeError as error:
            raise self._wrong(f"not {error.encoding[:6].upper()} text") from None

    def _end(self, character: str, *, in_list: bool) -> None:
        if in_list and character != "]":
            raise self._wrong("the list does not end; is the file complete?")
        self._at += bool(character)
        if character and self._next_character():
            raise self._wrong("there is more after the end of the list")

    def _next_character(self) -> str:
        """Return the next character that is no blank; empty at the end."""
        while True:
            for found in _LETTER.finditer(self._held, self._at):
                self._move(found.start())
                return found[0]
            self._move(len(self._held))
            if not self._more():
                return ""

    def _value(self) -> Any:
        wanted = _PIECE
        while True:
            try:
                value, end = read_value(self._held, self._at)
            except BadSpecification as error:
                raise self._wrong(str(error)) from None
            except RecursionError as error:
                raise self._wrong(f"not JSON: {error}") from None
            except ValueError as error:
                # It may only be cut off; twice as much each time, so that little is read again.
                if len(self._held) - self._at > MAX_LINE:
                    raise self._wrong(f"a value longer than {MAX_LINE:,} characters; is this a prompt file?") from None
                if wanted > _MOST_VALUES and values_of(self._held) > _MOST_VALUES:
                    raise self._wrong(_TOO_MANY) from None
                if not self._more(wanted):
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else _reason(error)
                    raise self._wrong(f"not JSON: {reason}") from None
                wanted *= 2
            else:
                self._move(end)
                return value

    def _more(self, size: int = _PIECE) -> bool:
        piece = self._text.read(size)
        self._held = self._held[self._at :] + piece
        self._at = 0
        return bool(piece)

    def _move(self, to: int) -> None:
        self._line += self._held.count("\n", self._at, to)
        self._at = to

    def _wrong(self, what: str) -> BadSpecification:
        return BadSpecification(f"{self._shown} line {self._line}: {what}")
