"""Parameters that narrow lists of renders and jobs."""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query

from scheduler.api.access import Caller
from scheduler.api.problems import Refused
from storage.access.keys import Role
from storage.errors import BadSpecification
from storage.renders.filters import Alike, JobFilter, LabelBound, RenderFilter
from storage.renders.views import RenderView
from storage.rules.states import State
from storage.spec.picture import MAX_SEED

#: Times that databases compare; the year 9999 at the end.
_LATEST = 253_402_300_799.0

LabelQuery = Annotated[
    str | None,
    Query(
        max_length=1000,
        description="Only with this label of a picture: `NAME=VALUE`, such as `split=train`. A value that is no text "
        "is compared as JSON writes it.",
    ),
]


@dataclass(frozen=True)
class RenderQuery:
    """Which renders to list."""

    owner: Annotated[
        str | None, Query(min_length=1, max_length=64, description="Only this owner's; another's needs an admin key.")
    ] = None
    state: Annotated[
        Literal["waiting", "running", "held", "done", "failed", "cancelled"] | None,
        Query(description="Only those in this state."),
    ] = None
    model: Annotated[
        str | None, Query(min_length=1, max_length=63, description="Only those with pictures of this model.")
    ] = None
    label: LabelQuery = None
    since: Annotated[
        str | None,
        Query(
            max_length=40,
            description="Only those submitted then or later: RFC 3339, such as `2026-11-28T14:30:00Z`, or seconds "
            "since 1970.",
        ),
    ] = None
    name: Annotated[str | None, Query(min_length=1, max_length=100, description="Only those of this name.")] = None

    def narrowed(self, caller: Caller) -> RenderFilter:
        """Return what to list. Raises BadSpecification naming a wrong parameter; Refused (403) for other owners."""
        for name in ("owner", "model", "name"):
            check_text(name, getattr(self, name))
        if self.owner is not None and caller.role is not Role.ADMIN and self.owner != caller.owner:
            raise Refused(
                403, f"this API key sees the renders of {caller.owner} alone; those of others need an admin key"
            )
        return RenderFilter(
            owner=caller.sees or self.owner,
            state=self.state,
            model=self.model,
            labels=read_label(self.label),
            since=_moment(self.since),
            name=self.name,
        )


@dataclass(frozen=True)
class JobQuery:
    """Which jobs of a render to list, beside their state."""

    label: LabelQuery = None
    prompt: Annotated[
        str | None,
        Query(min_length=1, max_length=200, description="Only those with this in their prompt, in any case."),
    ] = None
    model: Annotated[str | None, Query(min_length=1, max_length=63, description="Only those of this model.")] = None
    seed: Annotated[int | None, Query(ge=0, le=MAX_SEED, description="Only those of this seed.")] = None
    number: Annotated[
        str | None,
        Query(
            max_length=300,
            description="Only those with a label that is a number within this bound: `NAME>=NUMBER` or `NAME<=NUMBER`, "
            "such as `score>=0.5`. The farm scores no pictures itself.",
        ),
    ] = None
    duplicates: Annotated[
        Alike | None,
        Query(
            description="Only those that are like another one of the render: `pixels`, the same picture; `recipe`, the "
            "same specification, seed included."
        ),
    ] = None

    def narrowed(self) -> JobFilter:
        """Return what to list. Raises BadSpecification naming a wrong parameter."""
        for name in ("prompt", "model"):
            check_text(name, getattr(self, name))
        return JobFilter(
            model=self.model,
            seed=self.seed,
            prompt=self.prompt,
            labels=read_label(self.label),
            bound=_bound(self.number),
            duplicates=self.duplicates,
        )


def has_some(render: RenderView, state: State | None) -> bool:
    """Return whether a render has jobs in a state by its counters: of very many, none is looked for in vain."""
    counted = {State.DONE: render.done, State.FAILED: render.failed, State.CANCELLED: render.cancelled}
    return state is None or counted.get(state, render.remaining) > 0


def read_label(said: str | None) -> dict[str, str]:
    """Return labels by name; at most one. Raises BadSpecification for one that is not NAME=VALUE."""
    if said is None:
        return {}
    check_text("label", said)
    name, equals, value = said.partition("=")
    if not equals or not name:
        raise BadSpecification(f"label: {said[:40]!r}: expected NAME=VALUE, such as split=train")
    return {name: value}


def _bound(said: str | None) -> LabelBound | None:
    """Return what bounds a label. Raises BadSpecification."""
    if said is None:
        return None
    check_text("number", said)
    match = re.fullmatch(r"(.+?)\s*(>=|<=)\s*([-+0-9.eE]+)", said, re.DOTALL)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise BadSpecification(f"number: {said[:40]!r}: expected NAME>=NUMBER or NAME<=NUMBER, such as score>=0.5")
    return LabelBound(label=match[1], bound=bound, at_least=match[2] == ">=")


def check_text(name: str, value: str | None) -> None:
    """Raise BadSpecification for text that no database takes."""
    if value is not None and "\0" in value:
        raise BadSpecification(f"{name}: must not contain the character NUL")


def _moment(said: str | None) -> float | None:
    """Return a moment as seconds since 1970. Raises BadSpecification."""
    if said is None:
        return None
    try:
        # In an address a + is a space.
        moment = float(said) if not said.count("-") or "T" not in said.upper() else _rfc3339(said.replace(" ", "+"))
    except (ValueError, OverflowError):
        moment = -1.0
    if not 0 <= moment <= _LATEST:
        raise BadSpecification(
            f"since: {said[:40]!r}: expected a time such as 2026-11-28T14:30:00Z, or seconds since 1970"
        )
    return moment


def _rfc3339(said: str) -> float:
    moment = datetime.fromisoformat(said)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment.timestamp()
