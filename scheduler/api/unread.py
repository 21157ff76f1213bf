"""Refuse what a route does not read of a request: a body, a parameter, a form's field; and what comes twice."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from fastapi import Request, params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from starlette.datastructures import FormData

from scheduler.api.problems import Refused, not_json
from storage.errors import BadSpecification

#: What some clients send where they have nothing to say.
_EMPTY = (b"", b"{}", b"null")
#: Headers that decide what is accepted.
_ONCE = ("idempotency-key", "prefer")


async def nothing_unread(request: Request) -> None:
    """Pass if the route reads all of a request.

    Raises BadSpecification for a parameter, Refused for a body: 415 where JSON is read and it is none, otherwise 422.
    """
    route: Any = request.scope["route"]
    expected = list(_body_params(route.dependant))
    reads_json = expected and not isinstance(expected[0].field_info, params.Form)
    if reads_json and not _is_json(request) and (await request.body()).strip():
        # Said first: nothing of it was read.
        raise Refused(415, not_json(request))
    found = get_flat_params(route.dependant)
    parameters = {field.alias for field in found if isinstance(field.field_info, params.Query)}
    _check("parameter", (name for name, _ in request.query_params.multi_items()), parameters)
    for header in _ONCE:
        if len(request.headers.getlist(header)) > 1:
            raise BadSpecification(f"{header.title()}: a header that is given twice; give it once")
    if not expected:
        if (await request.body()).strip() not in _EMPTY:
            raise Refused(422, f"{request.method} {request.url.path} takes no body; GET /docs says what it takes")
    elif isinstance(form := getattr(request, "_form", None), FormData):
        fields = {field.alias for field in expected}
        _check("form field", (name for name, _ in form.multi_items()), fields)


def _body_params(dependant: Dependant) -> Iterator[Any]:
    """Yield what a route reads of a body, in what it depends on, too."""
    yield from dependant.body_params
    for one in dependant.dependencies:
        yield from _body_params(one)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _check(kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise BadSpecification for a name that is not known, and for one that comes twice: only one of them is read."""
    seen: set[str] = set()
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}?" if near else "this address does not read it"
            raise BadSpecification(f"{name[:60]}: unknown {kind}; {meant}")
        if name in seen:
            raise BadSpecification(f"{name}: a {kind} that is given twice; give it once")
        seen.add(name)
