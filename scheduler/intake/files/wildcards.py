"""Wildcard files: the values of `__animal__`, one per line of a `.txt` file, or lists in `.yaml` and `.json`.

They are read here, as prompt files are, and not by the library that expands templates: it drops letters that are not
UTF-8, entries that are no text and whole files that it cannot parse, with at most a line in a log.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from scheduler.intake.files import plain
from scheduler.intake.files.json_values import parse_json
from scheduler.intake.files.text import read_lines
from scheduler.intake.requests import BadRows, at
from storage.errors import BadSpecification, InvalidInput

SUFFIXES = (".txt", ".yaml", ".yml", ".json")
#: As within braces: `{3::red|blue}`.
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*::\s*")


class WildcardValue(BaseModel):
    """Hold one value of a wildcard; twice the weight is drawn twice as often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    weight: float = 1.0


Wildcards = dict[str, tuple[WildcardValue, ...]]


def read_lists(lists: Mapping[str, Iterable[Any]]) -> Wildcards:
    """Return the values of wildcards that are given as lists: text, or `{text: red, weight: 3}`.

    Raises BadSpecification with the place of what is wrong.
    """
    return {
        name: tuple(_entry(f"wildcards: {name} {number}", entry) for number, entry in enumerate(entries, start=1))
        for name, entries in lists.items()
    }


def read_folder(folder: Path) -> Wildcards:
    """Return the values by wildcard: `animal` of `animal.txt`, `pets/animal` of `pets/animal.txt`.

    Raises InvalidInput with the file, and the line or key, of what is no wildcard.
    """
    found: Wildcards = {}
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    for file in files:
        inside = file.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        for name, values in _of_file(file):
            full_name = "/".join([*inside.parent.parts, name])
            if full_name in found:
                raise InvalidInput(f"{file}: the wildcard {full_name} is in another file, too; rename one of them")
            found[full_name] = values
    return found


def _of_file(file: Path) -> Iterator[tuple[str, tuple[WildcardValue, ...]]]:
    try:
        with file.open("rb") as opened:
            lines = read_lines(opened, str(file), BadRows())
            if file.suffix.lower() == ".txt":
                found = [_weighted(where, text) for where, text in plain.values(lines, BadRows())]
                yield file.stem, tuple(found)
                return
            value = _parsed(file, "".join(line for _, line in lines))
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror or error}") from None
    yield from _structured(str(file), file.stem if isinstance(value, list) else "", value)


def _parsed(file: Path, text: str) -> Any:
    try:
        if file.suffix.lower() == ".json":
            return parse_json(text)
        from scheduler.intake.files.yaml_values import parse_yaml

        return parse_yaml(text)
    except BadSpecification as error:
        raise at(str(file), error) from None


def _structured(shown: str, name: str, value: Any) -> Iterator[tuple[str, tuple[WildcardValue, ...]]]:
    """Yield the wildcards of a file's values: lists, and lists in keys of keys (`pets/animal`)."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _structured(shown, f"{name}/{key}".lstrip("/"), below)
        return
    entries = value if isinstance(value, list) else [value]
    yield name, tuple(_entry(f"{shown}: {name} {number}", entry) for number, entry in enumerate(entries, start=1))


def _entry(where: str, entry: Any) -> WildcardValue:
    """Read an entry of a list: `red`, `3::red` or `{text: red, weight: 3}`."""
    if (
        isinstance(entry, dict)
        and entry.keys() <= {"text", "content", "weight"}
        and len(entry.keys() - {"weight"}) == 1
    ):
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise BadSpecification(f"{where}: weight: must be a number (given: {weight!r})")
        text = entry["text"] if "text" in entry else entry["content"]
        return WildcardValue(text=_text(where, text), weight=_checked(where, float(weight)))
    return _weighted(where, _text(where, entry))


def _text(where: str, entry: Any) -> str:
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        return str(entry)
    if not isinstance(entry, str) or not entry.strip():
        raise BadSpecification(
            f"{where}: must be text (given: {str(entry)[:40]!r}); in YAML, words such as yes and no need quotes"
        )
    return entry.strip()


def _weighted(where: str, text: str) -> WildcardValue:
    """Parse a value that may begin with its weight. The library knows that in structured files only."""
    match = _WEIGHT.match(text)
    if match is not None:
        return WildcardValue(text=text[match.end() :], weight=_checked(where, float(match[1])))
    try:
        check_weight(text)
    except BadSpecification as error:
        raise at(where, error) from None
    return WildcardValue(text=text)


def check_weight(text: str) -> None:
    """Raise BadSpecification for a text that begins with a number and `::` but with no weight, such as `-1::red`."""
    number, colons, _ = text.partition("::")
    if not colons:
        return
    try:
        float(number)
    except ValueError:
        return
    raise BadSpecification(f"{number.strip()}: not a weight; expected a number above 0, as in 3::red")


def _checked(where: str, weight: float) -> float:
    if not 0 < weight < math.inf:
        raise BadSpecification(f"{where}: weight {weight:g}: must be above 0; leave out what is never to be drawn")
    return weight
