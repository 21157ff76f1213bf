"""What narrows a list of renders, or of a render's jobs."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

from sqlalchemy import (
    ColumnElement,
    Double,
    Numeric,
    Select,
    String,
    case,
    cast,
    collate,
    func,
    literal,
    literal_column,
    select,
)

from storage.database.tables import jobs, renders
from storage.rules.states import State


@dataclass(frozen=True, kw_only=True)
class RenderFilter:
    """Which renders; those for which all of it holds."""

    owner: str | None = None
    #: As a render tells it (`storage.rules.states.render_state`).
    state: str | None = None
    #: One of its pictures is of this model.
    model: str | None = None
    #: One of its pictures has all of these labels, by their text.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Submitted then, or later: seconds since 1970.
    since: float | None = None
    name: str | None = None

    def narrow(self, statement: Select[Any], *, dialect: str) -> Select[Any]:
        """Narrow a list of renders that are not being deleted."""
        found = [~renders.c.purging]
        if self.owner is not None:
            found.append(renders.c.owner == self.owner)
        if self.state is not None:
            found.append(_in_state(self.state))
        if self.model is not None:
            found.append(renders.c.models.contains(f" {self.model} ", autoescape=True))
        if self.since is not None:
            found.append(renders.c.created_at >= self.since)
        if self.name is not None:
            found.append(renders.c.name == self.name)
        if self.labels:
            theirs = select(jobs.c.id).where(jobs.c.render_id == renders.c.id, *labelled(self.labels, dialect=dialect))
            found.append(theirs.correlate(renders).exists())
        return statement.where(*found)


#: What two pictures of a render have in common: the pixels, or the whole specification.
Alike = Literal["pixels", "recipe"]


@dataclass(frozen=True, kw_only=True)
class LabelBound:
    """A label that is a number, and how large it is at least, or at most."""

    label: str
    bound: float
    at_least: bool


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which of a render's jobs; those for which all of it holds."""

    model: str | None = None
    seed: int | None = None
    #: In the prompt, whatever the case.
    prompt: str | None = None
    #: All of these, by their text.
    labels: Mapping[str, str] = field(default_factory=dict)
    bound: LabelBound | None = None
    #: Another one of the render is like it.
    duplicates: Alike | None = None

    def narrow(self, statement: Select[Any], *, render_id: str, dialect: str) -> Select[Any]:
        """Narrow a list of a render's jobs."""
        found = labelled(self.labels, dialect=dialect)
        if self.bound is not None:
            found += _bounded(self.bound, dialect)
        if self.duplicates is not None:
            found.append(_twice(self.duplicates, render_id, dialect))
        if self.model is not None:
            found.append(jobs.c.model == self.model)
        if self.seed is not None:
            found.append(jobs.c.seed == self.seed)
        if self.prompt is not None:
            found += _in_prompt(self.prompt, dialect)
        return statement.where(*found)


class Listed(Protocol):
    """What a render's place in a list is made of."""

    @property
    def id(self) -> str: ...

    @property
    def created_at(self) -> float: ...


def order(*, newest_first: bool) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return what lists of renders are ordered by."""
    return (renders.c.created_at.desc(), renders.c.id) if newest_first else (renders.c.created_at, renders.c.id.desc())


def older(than: Listed) -> ColumnElement[bool]:
    """Match what comes after a render in a list, newest first."""
    same = renders.c.created_at == than.created_at
    return (renders.c.created_at < than.created_at) | (same & (renders.c.id > than.id))


def newer(than: Listed) -> ColumnElement[bool]:
    """Match what comes before a render in a list, newest first."""
    same = renders.c.created_at == than.created_at
    return (renders.c.created_at > than.created_at) | (same & (renders.c.id < than.id))


def labelled(labels: Mapping[str, str], *, dialect: str) -> list[ColumnElement[bool]]:
    """Match jobs with all of these labels. A label that is no text is compared as JSON writes it: `4`, `true`."""
    found: list[ColumnElement[bool]] = [jobs.c.labels.is_not(None)] if labels else []
    for name, value in labels.items():
        if dialect == "postgresql":
            if _is_written_as_it_is(value):
                # Of a hundred thousand, most are passed over without reading their JSON.
                found.append(jobs.c.labels.contains(value, autoescape=True))
            found.append(_label(name).op("#>>")(literal_column("'{}'")) == value)
            continue
        pairs = func.json_each(jobs.c.labels).table_valued("key", "value", "type")
        # SQLite's true is 1.
        of_truth = pairs.c.type.in_(("true", "false"))
        text = case((of_truth, pairs.c.type), else_=cast(pairs.c.value, String))
        one = select(pairs.c.key).where(pairs.c.key == name, text == value)
        found.append(one.correlate(jobs).exists())
    return found


def _bounded(wanted: LabelBound, dialect: str) -> list[ColumnElement[bool]]:
    """Match jobs of which this label is a number within its bound; a text that looks like one is none."""
    if dialect == "postgresql":
        value = _label(wanted.label)
        # As exact as JSON's numbers, and as large: a double would overflow. Only of numbers: text is not to be read.
        exact = case((func.jsonb_typeof(value) == "number", cast(cast(value, String), Numeric)), else_=None)
        least = literal(Decimal(repr(wanted.bound)), Numeric)
        return [jobs.c.labels.is_not(None), exact >= least if wanted.at_least else exact <= least]
    pairs = func.json_each(jobs.c.labels).table_valued("key", "value", "type")
    is_number = pairs.c.type.in_(("integer", "real"))
    number = case((is_number, cast(pairs.c.value, Double)), else_=None)
    bound = literal(wanted.bound, Double)
    within = number >= bound if wanted.at_least else number <= bound
    one = select(pairs.c.key).where(pairs.c.key == wanted.label, within)
    return [jobs.c.labels.is_not(None), one.correlate(jobs).exists()]


def _label(name: str) -> ColumnElement[Any]:
    """Return a label's value on PostgreSQL, as JSON; NULL where there is none."""
    return cast(_sound_labels().op("->")(literal(name, String)), _jsonb())


def _is_written_as_it_is(value: str) -> bool:
    """Return whether a label of this text has it in its JSON, letter by letter; of a number, that may be another."""
    return value[:1].isalpha() and value.isascii() and json.dumps(value) == f'"{value}"'


def _sound_labels() -> ColumnElement[Any]:
    # PostgreSQL has no NUL in text: what has one is passed over.
    return cast(case((jobs.c.labels.contains("\\u0000", autoescape=True), "{}"), else_=jobs.c.labels), _jsonb())


def _twice(alike: Alike, render_id: str, dialect: str) -> ColumnElement[bool]:
    """Match jobs that are like another one of their render; reads all of its rows, once."""
    others = jobs.alias("others")
    column = others.c.pixels_sha256 if alike == "pixels" else others.c.spec
    theirs = (others.c.render_id == render_id, column.is_not(None))
    # Seeds first: they are told apart at once, and a specification has its seed.
    first = () if alike == "pixels" else (others.c.seed,)
    if dialect == "postgresql":
        # Their places, so that the rows themselves come by their index, and not by looking through all a second time.
        # Told apart byte by byte: in a language's order, that takes several times as long.
        alike_ones = func.count().over(partition_by=[*first, collate(column, "C")])
        counted = select(others.c.index, alike_ones.label("n")).where(*theirs).subquery("counted")
        places = select(counted.c.index).where(counted.c.n > 1).scalar_subquery()
        return jobs.c.index == func.any(func.array(places))
    several = select(column).where(*theirs).group_by(*first, column).having(func.count() > 1)
    return (jobs.c.pixels_sha256 if alike == "pixels" else jobs.c.spec).in_(several)


def on_device() -> ColumnElement[bool]:
    """Match renders of which a picture is on a device."""
    # Leases are few, and have an index, which serves only where the state is written out, not bound.
    leased = (jobs.c.state == literal_column(f"'{State.RUNNING}'")) & jobs.c.lease_until.is_not(None)
    return renders.c.id.in_(select(jobs.c.render_id).where(leased))


def _in_state(state: str) -> ColumnElement[bool]:
    left = renders.c.done + renders.c.failed + renders.c.cancelled < renders.c.total
    # What is unfinished is looked for through an index.
    unfinished = renders.c.finished_at.is_(None) & left
    return {
        "held": unfinished & renders.c.held,
        "running": unfinished & ~renders.c.held & on_device(),
        "waiting": unfinished & ~renders.c.held & ~on_device(),
        "failed": ~left & (renders.c.failed > 0),
        "cancelled": ~left & (renders.c.failed == 0) & (renders.c.cancelled > 0),
        "done": ~left & (renders.c.failed == 0) & (renders.c.cancelled == 0),
    }[state]


def _in_prompt(text: str, dialect: str) -> list[ColumnElement[bool]]:
    """Match jobs with a text in their prompt, whatever its case."""
    exact = _prompt(dialect).icontains(text, autoescape=True)
    if json.dumps(text, ensure_ascii=False) != f'"{text}"':
        return [exact]
    # Of a hundred thousand, most are passed over without reading their JSON, in which this text stands as it is.
    escaped = re.sub(r"([/%_])", r"/\1", text)
    return [_ilike(escaped, text) if dialect == "postgresql" else _like(escaped), exact]


def _ilike(escaped: str, text: str) -> ColumnElement[bool]:
    # Of ASCII alone, in a third of the time.
    spec = jobs.c.spec.collate("C") if text.isascii() else jobs.c.spec
    return spec.ilike(f"%{escaped}%", escape="/")


def _like(escaped: str) -> ColumnElement[bool]:
    # SQLite's LIKE takes upper and lower case for the same by itself, as far as `lower` does.
    return jobs.c.spec.like(f"%{escaped}%", escape="/")


def _prompt(dialect: str) -> ColumnElement[str]:
    if dialect == "postgresql":
        return func.jsonb_extract_path_text(cast(jobs.c.spec, _jsonb()), "prompt")
    return func.json_extract(jobs.c.spec, "$.prompt")


def _jsonb() -> Any:
    # Only where it is the one in use: each dialect brings all of its drivers along.
    from sqlalchemy.dialects.postgresql import JSONB

    return JSONB
