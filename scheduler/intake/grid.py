"""Lists of values for fields of a picture: some go in step (`zip`), of others every combination is made (`product`)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from scheduler.intake.requests import SourcedRequest
from storage.errors import InvalidInput
from storage.spec.picture import NAMES, Request

Columns = Mapping[str, Sequence[Any]]


def check(in_step: Columns, combined: Columns) -> None:
    """Raises ValueError naming the list that is wrong."""
    first = next(iter(in_step), None)
    for name, column in in_step.items():
        if first is not None and len(column) != len(in_step[first]):
            raise ValueError(f"zip: {name} has {len(column)} values, {first} has another number")
    for name in (*in_step, *combined):
        if name not in NAMES:
            raise ValueError(f"{name}: is no field of a specification")
    if twice := in_step.keys() & combined.keys():
        raise ValueError(f"{min(twice)}: in zip and in product")


def size(in_step: Columns, combined: Columns) -> int:
    """How many combinations there are."""
    rows = len(next(iter(in_step.values()), [None]))
    return rows * prod(len(column) for column in combined.values())


def combinations(in_step: Columns, combined: Columns) -> Iterator[dict[str, Any]]:
    """Every combination, zipped rows outermost, the last product varying fastest."""
    rows = [dict(zip(in_step, row, strict=True)) for row in zip(*in_step.values(), strict=True)] if in_step else [{}]
    for row, values in product(rows, product(*combined.values())):
        yield {**row, **dict(zip(combined, values, strict=True))}


def multiplied(asked: Iterable[SourcedRequest], in_step: Columns, combined: Columns) -> Iterator[SourcedRequest]:
    """Each request once for every combination, whose values win over its own; its name gets the number of it.

    Raises BadSpecification naming the first value that is wrong.
    """
    if not in_step and not combined:
        yield from asked
        return
    changes = [_read(values) for values in combinations(in_step, combined)]
    for one in asked:
        for number, change in enumerate(changes):
            name = one.request.custom_id and f"{one.request.custom_id}-{number}"
            yield one._replace(request=one.request.model_copy(update={**change, "custom_id": name}))


def read_columns(given: Iterable[str], option: str) -> dict[str, list[Any]]:
    """Lists as the command line writes them: `steps=10,20` or, where a value has commas, `prompt=["a, b", "c"]`.

    Raises InvalidInput.
    """
    found: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise InvalidInput(f"{option} {text}: expected FIELD=VALUE,VALUE…, such as steps=10,20")
        if name.strip() in found:
            raise InvalidInput(f"{option} {text}: {name.strip()} is there twice")
        found[name.strip()] = _json_list(values, option) or [value.strip() for value in values.split(",")]
    return found


def _json_list(values: str, option: str) -> list[Any] | None:
    if not values.lstrip().startswith("["):
        return None
    try:
        read = json.loads(values)
    except ValueError as error:
        raise InvalidInput(f"{option}: {values} is not a list in JSON ({error})") from None
    return read if isinstance(read, list) else None


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one combination, checked; text is read as the field's type."""
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    typed = {name: value for name, value in values.items() if not isinstance(value, str)}
    # A prompt is what every request has, and what these may leave out.
    read = Request.parse_strings({"prompt": "-", **texts}).asked() | Request.parse({"prompt": "-", **typed}).asked()
    return read if "prompt" in values else {name: value for name, value in read.items() if name != "prompt"}
