"""Lists of values for fields: zipped (`zip`), or every combination of them (`product`)."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from scheduler.intake.files.columns import canonical
from scheduler.intake.files.json_text import DoubledKey, read_json
from scheduler.intake.requests import MOST_PICTURES, SourcedRequest
from storage.errors import BadSpecification, InvalidInput
from storage.spec.picture import NAMES, Request
from storage.spec.picture_size import FIELDS, contradiction, overruled

Columns = Mapping[str, Sequence[Any]]
#: Combinations in memory at once.
_KEPT = 10_000


def check(in_step: Columns, combined: Columns, given: Collection[str] = ()) -> None:
    """Check the lists. Raises ValueError naming the wrong one.

    Args:
        given: the fields that are given beside them, once for all pictures.
    """
    first = next(iter(in_step), None)
    for name, column in in_step.items():
        if first is not None and len(column) != len(in_step[first]):
            raise ValueError(f"zip: {name} has {len(column)} values, {first} has {len(in_step[first])}")
    for name in (*in_step, *combined):
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=3)
            raise ValueError(
                f"{name}: not a field of a specification" + (f"; did you mean {' or '.join(near)}?" if near else "")
            )
    places = [(name, place) for place, names in (("zip", in_step), ("product", combined)) for name in names]
    seen: dict[str, str] = {canonical(name): "" for name in given}
    for name, place in places:
        before = seen.setdefault(canonical(name), place)
        if not before:
            raise ValueError(f"{name}: given by itself, and in {place}, whose values would replace it; give it one way")
        if before != place:
            raise ValueError(f"{name}: given in both zip and product")
    if (wrong := contradiction({*map(canonical, (*given, *in_step, *combined))})) is not None:
        raise ValueError(wrong)
    for place, names in (("zip", in_step), ("product", combined)):
        if len({*map(canonical, names)}) < len(names):
            raise ValueError(f"{place}: {', '.join(names)} name one field twice")


def size(in_step: Columns, combined: Columns) -> int:
    """Return the number of combinations."""
    rows = len(next(iter(in_step.values()), [None]))
    return rows * prod(len(column) for column in combined.values())


def combinations(in_step: Columns, combined: Columns) -> Iterator[dict[str, Any]]:
    """Yield every combination, zipped rows outermost, the last product varying fastest."""
    rows = [dict(zip(in_step, row, strict=True)) for row in zip(*in_step.values(), strict=True)] if in_step else [{}]
    for row, values in product(rows, product(*combined.values())):
        yield {**row, **dict(zip(combined, values, strict=True))}


def multiplied(asked: Iterable[SourcedRequest], in_step: Columns, combined: Columns) -> Iterator[SourcedRequest]:
    """Yield each request once per combination, whose values replace its own; its name gets the combination's number.

    Raises BadSpecification naming the first value that is wrong.
    """
    if not in_step and not combined:
        yield from asked
        return
    if (count := size(in_step, combined)) > MOST_PICTURES:
        raise BadSpecification(f"{count:,} combinations of values; the most pictures of a render are {MOST_PICTURES:,}")
    # A million of them are made again for each row: they would not fit into memory.
    kept = [_read(values) for values in combinations(in_step, combined)] if count <= _KEPT else None
    for one in asked:
        changes = kept if kept is not None else map(_read, combinations(in_step, combined))
        for number, change in enumerate(changes):
            name = one.request.custom_id and f"{one.request.custom_id}-{number}"
            given = [field for field in FIELDS if getattr(one.request, field) is not None]
            gone = dict.fromkeys(overruled(given, change))
            yield one.with_values({**gone, **change, "custom_id": name})


def read_columns(given: Iterable[str], option: str) -> dict[str, list[Any]]:
    """Parse lists of the command line: `steps=10,20` or, if a value has commas, `prompt=["a, b", "c"]`.

    Raises InvalidInput.
    """
    found: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise InvalidInput(f"{option} {text}: expected FIELD=VALUE,VALUE…, such as steps=10,20")
        if name.strip() in found:
            raise InvalidInput(f"{option} {text}: duplicate field {name.strip()}")
        found[name.strip()] = _json_list(values, option) or [value.strip() for value in values.split(",")]
    return found


def _json_list(values: str, option: str) -> list[Any] | None:
    if not values.lstrip().startswith("["):
        return None
    try:
        read = read_json(values)
    except DoubledKey as error:
        raise InvalidInput(f"{option}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{option}: {values} is not a JSON list ({error})") from None
    return read if isinstance(read, list) else None


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked fields of one combination; text is parsed as the field's type."""
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    typed = {name: value for name, value in values.items() if not isinstance(value, str)}
    # Every request needs a prompt, but a combination may lack one.
    read = Request.parse_strings({"prompt": "-", **texts}).asked() | Request.parse({"prompt": "-", **typed}).asked()
    return read if "prompt" in values else {name: value for name, value in read.items() if name != "prompt"}
