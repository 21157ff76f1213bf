"""The page of keys: made, shown once and revoked, by admins."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Depends, Form, Request, Response
from pydantic import ValidationError

from scheduler.api import operators as api
from scheduler.api.access import Caller
from scheduler.api.context import ApiContext, Context
from scheduler.api.page.serving import go_to, html, page_router, problem_of
from scheduler.api.page.visitors import Operator, Overseer
from storage.access.keys import Role
from storage.errors import BadSpecification, InvalidInput
from storage.spec.explanations import explain

_DAY_SECONDS = 86_400
_MOST_DAYS = 3650
_LIMITS = ("queued", "per_day", "per_minute", "work", "uploads", "upload_bytes")
_Text = Annotated[str, Form(max_length=200)]

router = page_router()


@dataclass(frozen=True, kw_only=True)
class KeyFields:
    """What the form to make a key sends."""

    name: _Text = ""
    owner: _Text = ""
    role: _Text = "submit"
    days: _Text = ""
    queued: _Text = ""
    per_day: _Text = ""
    per_minute: _Text = ""
    work: _Text = ""
    uploads: _Text = ""
    upload_bytes: _Text = ""

    def body(self) -> api.KeyBody:
        """Return what to ask the API for. Raises BadSpecification naming the first wrong field."""
        limits = {name: text for name in _LIMITS if (text := getattr(self, name))}
        said: dict[str, Any] = {"name": self.name, "owner": self.owner, "role": self.role, "limits": limits}
        if self.days:
            said["expires_in"] = _days(self.days) * _DAY_SECONDS
        try:
            return api.KeyBody.model_validate(said)
        except ValidationError as error:
            raise BadSpecification(explain(error, api.KeyBody)) from None


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    # Also of what is no number to compare with.
    if not 0 < days <= _MOST_DAYS:
        raise BadSpecification(
            f"days: {text[:20]!r} is no number above 0 and up to {_MOST_DAYS:,}; empty means for ever"
        )
    return days


@router.get("/keys")
def show_keys(request: Request, context: Context, caller: Overseer) -> Response:
    """Show the keys, without their secrets."""
    return _page(request, context, caller)


@router.post("/keys/make")
def make_key(request: Request, context: Context, caller: Operator, fields: Annotated[KeyFields, Depends()]) -> Response:
    """Make a key, and show it this once."""
    try:
        made = api.make_key(context, fields.body(), caller)
    except InvalidInput as error:
        return _page(request, context, caller, fields=fields, problem=problem_of(request, error))
    return _page(request, context, caller, made=made)


@router.post("/keys/{key_id}/revoke")
def revoke(request: Request, context: Context, key_id: str, caller: Operator) -> Response:
    """Revoke a key."""
    key = api.revoke_key(context, key_id, caller)
    return go_to(request, "/keys", f"Key {key.id} of {key.owner} is revoked.")


def _page(
    request: Request,
    context: ApiContext,
    caller: Caller,
    *,
    made: api.NewKeyAnswer | None = None,
    fields: KeyFields | None = None,
    problem: dict[str, Any] | None = None,
) -> Response:
    return html(
        request,
        "keys.html",
        status=200 if problem is None else problem["status"],
        keys=api.list_keys(context, caller),
        made=made,
        values=asdict(fields or KeyFields()),
        problem=problem,
        roles=[role.value for role in Role],
        limit_names=_LIMITS,
    )
