"""Arrange a render's pictures in a grid whose axes are fields that differ: named, or chosen where that is clear.

An axis is a field of the specification (`num_inference_steps`, or `steps`; width and height are one, `size`) or a
label. Fields that differ together, such as those of `--zip`, are one axis.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.intake.files.columns import canonical
from storage.errors import InvalidInput
from storage.renders.filters import JobFilter
from storage.renders.views import JobView, Views
from storage.spec.sampler_names import SAMPLERS

#: Pictures of one grid, and cells, most of which may be empty: beyond that nobody sees anything.
MOST_PICTURES = 1000
MOST_CELLS = 2500
#: Axes that are told apart: columns, rows, blocks.
PLACES = ("x", "y", "z")
#: Longer values are better read as rows.
_SHORT = 24
#: Fields named in a message.
_NAMED = 10
_LABEL = "label:"
_MISSING = "none"

#: Where a cell is: the numbers of its values on each axis.
Place = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field, and its values in the order in which they stand."""

    field: str
    #: Fields that differ in step with it.
    also: tuple[str, ...] = ()
    #: What is written at each value.
    values: tuple[str, ...]

    @property
    def title(self) -> str:
        return ", ".join(map(shown_name, (self.field, *self.also)))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pictures by their places on two or three axes; one of fewer has a single value without a name there."""

    x: Axis
    y: Axis
    z: Axis
    cells: Mapping[Place, Sequence[JobView]]
    #: What tells the pictures of one cell apart; empty where each has one.
    within: tuple[str, ...] = ()
    #: The seeds differ from cell to cell: what is seen is not of the axes alone.
    seeds_differ: bool = False
    #: Fields of which all pictures have the same.
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        return sum(map(len, self.cells.values()))

    @property
    def most_in_cell(self) -> int:
        return max(map(len, self.cells.values()))

    def told_apart(self, job: JobView) -> str:
        """Return what is written below a picture that shares its cell."""
        said = fields_of(job)
        return ", ".join(f"{shown_name(name)} {shown(name, said.get(name))}" for name in self.within)


def grid_of(views: Views, render_id: str, named: Mapping[str, str], labels: Mapping[str, str]) -> Grid:
    """Arrange a render's pictures, only those with all of these labels; raises as `arranged`, and if there is none."""
    return arranged(pictures_of(views, render_id, labels), named)


def pictures_of(views: Views, render_id: str, labels: Mapping[str, str]) -> list[JobView]:
    """Return the pictures of a grid, and one more where they are too many: it is refused. Raises InvalidInput."""
    jobs = list(views.jobs(render_id, which=JobFilter(labels=labels), limit=MOST_PICTURES + 1))
    if not jobs:
        raise InvalidInput(f"render {render_id} has no pictures with these labels")
    return jobs


def differing(jobs: Iterable[JobView]) -> list[str]:
    """Return the fields and labels in which pictures differ, as people write them: what can be an axis."""
    rows = [fields_of(job) for job in jobs]
    return [shown_name(name) for name in _names(rows) if _differs(rows, name)]


def arranged(jobs: Iterable[JobView], named: Mapping[str, str]) -> Grid:
    """Arrange pictures; `named`: axes by their place, `x`, `y` or `z`, such as x=steps.

    Raises InvalidInput naming what is wrong: an axis that is no field, too many pictures, no axis that is clear.
    """
    found = list(jobs)
    if len(found) > MOST_PICTURES:
        raise InvalidInput(f"more than {MOST_PICTURES} pictures; a grid has at most so many: narrow it by a label")
    rows = [fields_of(job) for job in found]
    chosen = _chosen(rows, _read_names(rows, named))
    axes = {place: _axis(rows, names) for place, names in chosen.items()}
    if (n := len(axes["x"].values) * len(axes["y"].values) * len(axes["z"].values)) > MOST_CELLS:
        of = " × ".join(f"{len(axis.values)} of {axis.title}" for axis in axes.values() if axis.field)
        raise InvalidInput(f"a grid of {n:,} cells ({of}); at most {MOST_CELLS:,} are drawn: name other axes")
    numbers = {place: _numbers(rows, chosen[place]) for place in PLACES}
    cells: dict[Place, list[JobView]] = {}
    for at, job in enumerate(found):
        cells.setdefault(tuple(numbers[place][at] for place in PLACES), []).append(job)
    within = _within(cells)
    on_axes = {name for names in chosen.values() for name in names}
    differing = {name for name in _names(rows) if _differs(rows, name)}
    shared = {name: shown(name, rows[0].get(name)) for name in _names(rows) if name not in differing}
    seeds_differ = "seed" in differing - on_axes and "seed" not in within
    return Grid(**axes, cells=cells, within=within, seeds_differ=seeds_differ, shared=shared)


def fields_of(job: JobView) -> dict[str, Any]:
    """Return what may be an axis of a picture: its specification and its labels, as JSON has them."""
    said = job.spec.fields()
    size = {"size": f"{said.pop('width')}x{said.pop('height')}"}
    del said["version"]
    labels = job.labels or {}
    # A label never hides a field.
    return said | size | {(_LABEL + name if name in said or name == "size" else name): labels[name] for name in labels}


def shown_name(name: str) -> str:
    """Return a field's name as people write it."""
    return {"num_inference_steps": "steps", "guidance_scale": "guidance", "negative_prompt": "negative"}.get(name, name)


def shown(name: str, value: Any) -> str:
    """Return a value as it is written beside a grid."""
    if value is None or value == "":
        return _MISSING
    if name == "sampler":
        return SAMPLERS.get(str(value), str(value))
    if isinstance(value, float):
        short = f"{value:g}"
        # Values that differ in their seventh digit are two, and look like two.
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all names in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differs(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return len({_key(row.get(name)) for row in rows}) > 1


def _read_names(rows: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> dict[str, str]:
    """Return the axes that were named, by their full names. Raises InvalidInput."""
    known = _names(rows)
    found: dict[str, str] = {}
    for place, said in named.items():
        name = said if said in known else canonical(said.strip().lower().replace(" ", "_"))
        if name in ("width", "height"):
            name = "size"
        if name not in known:
            near = difflib.get_close_matches(said, [*known, *map(shown_name, known)], n=1)
            meant = f"did you mean {near[0]}?" if near else f"those that differ are {_listed(rows)}"
            raise InvalidInput(f"{place}: no picture has a field or label {said[:40]!r}; {meant}")
        if name in found.values():
            raise InvalidInput(f"{place}: {shown_name(name)} is an axis already; name another one")
        found[place] = name
    return found


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [shown_name(name) for name in _names(rows) if _differs(rows, name)]
    return ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "") or "none"


def _chosen(rows: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the names of each axis, none for one that there is not. Raises InvalidInput where that is not clear."""
    groups = _groups(rows)

    def group_of(name: str) -> tuple[str, ...]:
        mates = next((group for group in groups if name in group), (name,))
        return (name, *(mate for mate in mates if mate != name and mate not in named.values()))

    chosen = {place: group_of(name) for place, name in named.items()}
    taken = {name for names in chosen.values() for name in names}
    left = [group for group in groups if taken.isdisjoint(group)]
    free = [place for place in PLACES if place not in chosen]
    if not chosen and len(left) > len(PLACES):
        raise InvalidInput(f"the pictures differ in {_listed(rows)}: name two or three of these as x, y and z")
    if len(left) <= len(free):
        # Short values are columns, long ones rows; blocks are few.
        left.sort(key=lambda group: max(len(shown(group[0], row.get(group[0]))) for row in rows))
        if len(left) == 1 and free[:2] == ["x", "y"] and _is_long(rows, left[0][0]):
            free.remove("x")
        chosen |= dict(zip(free, left, strict=False))
    if len(chosen) == 1 and "seed" not in taken and _squared(rows, next(iter(chosen.values()))[0]):
        chosen["y" if "x" in chosen else "x"] = ("seed",)
    if not chosen:
        seeds = _differs(rows, "seed")
        what = "the pictures differ in their seeds alone" if seeds else "no picture differs from another one"
        raise InvalidInput(f"{what}; `farm sheet` shows them, or name the axis seed")
    return {place: chosen.get(place, ()) for place in PLACES}


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the fields that differ but for the seed, those that differ in step together."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name in _names(rows):
        if name != "seed" and _differs(rows, name):
            seen: dict[str, int] = {}
            found.setdefault(tuple(seen.setdefault(_key(row.get(name)), len(seen)) for row in rows), []).append(name)
    return [tuple(names) for names in found.values()]


def _is_long(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(len(shown(name, row.get(name))) > _SHORT for row in rows)


def _squared(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether the same few seeds come with every value."""
    seeds = {_key(row.get("seed")) for row in rows}
    pairs = {(_key(row.get(name)), _key(row.get("seed"))) for row in rows}
    return 1 < len(seeds) < len(rows) and len(pairs) == len(rows) == len(seeds) * len({pair[0] for pair in pairs})


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the values of a field by their keys: numbers by size, others as they come first."""
    found = {_key(row.get(name)): row.get(name) for row in rows}
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in found.values()):
        return found
    return dict(sorted(found.items(), key=lambda pair: float(pair[1] or 0)))


def _axis(rows: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> Axis:
    if not names:
        return Axis(field="", values=("",))
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(_key(row.get(names[0])), row)
    written = []
    for key in _values(rows, names[0]):
        row = first[key]
        also = [f"{shown_name(name)} {text}" for name in names[1:] if len(text := shown(name, row.get(name))) <= _SHORT]
        written.append("\n".join([shown(names[0], row.get(names[0])), *also]))
    return Axis(field=names[0], also=names[1:], values=tuple(written))


def _numbers(rows: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> list[int]:
    """Return the number of each picture's value on an axis."""
    if not names:
        return [0] * len(rows)
    order = {key: number for number, key in enumerate(_values(rows, names[0]))}
    return [order[_key(row.get(names[0]))] for row in rows]


def _within(cells: Mapping[Place, Sequence[JobView]]) -> tuple[str, ...]:
    """Return the fields that tell the pictures of one cell apart."""
    found: dict[str, None] = {}
    for jobs in cells.values():
        rows = [fields_of(job) for job in jobs]
        found |= dict.fromkeys(name for name in _names(rows) if _differs(rows, name))
    return tuple(found)
