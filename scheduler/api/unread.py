"""Refuse what a request brings and its route does not read: a body, a parameter of the address."""

import difflib
from typing import Any

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params

from scheduler.api.problems import Refused
from storage.errors import BadSpecification

#: What some clients send where they have nothing to say.
_EMPTY = (b"", b"{}", b"null")


async def nothing_unread(request: Request) -> None:
    """Pass if the route reads all of a request. Raises BadSpecification for a parameter, Refused (422) for a body."""
    route: Any = request.scope["route"]
    parameters = {field.alias: field.field_info for field in get_flat_params(route.dependant)}
    for name in request.query_params:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            meant = f"did you mean {near[0]}?" if near else "this address does not read it"
            raise BadSpecification(f"{name[:60]}: unknown parameter; {meant}")
    if not route.dependant.body_params and (await request.body()).strip() not in _EMPTY:
        raise Refused(422, f"{request.method} {request.url.path} takes no body; GET /docs says what it takes")
