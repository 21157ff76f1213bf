"""Who looks at a page, and whose forms are read; logging in and out."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Form, Query, Request, Response

from scheduler.api.access import Access, Caller, let_in
from scheduler.api.page.fields import OrderFields
from scheduler.api.page.serving import go_to, html, page_router
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from storage.access.keys import Keys, Role

#: Of a form that was opened elsewhere, as browsers tell it.
_ELSEWHERE = ("cross-site", "same-site")

#: Said with the form, filled in as it was sent.
OLD_FORM = "this form was opened before you logged in or out, or long ago: nothing was done; check it, and send it"

FormToken = Annotated[str, Form(max_length=100)]


def visitor(request: Request) -> Caller:
    """Return who looks at a page. Raises Refused (401)."""
    return let_in(request, None, Role.READ)


def submitter(request: Request) -> Caller:
    """Return who looks at the form to submit. Raises Refused (401, 403)."""
    return let_in(request, None, Role.SUBMIT)


def overseer(request: Request) -> Caller:
    """Return who looks at a page for admins. Raises Refused (401, 403)."""
    return let_in(request, None, Role.ADMIN)


def by_own_form(needed: Role) -> Callable[..., Caller]:
    """Return a dependency that yields who sends a form, if it is one of this farm's. Raises Refused (401, 403)."""

    def sender(request: Request, form_token: FormToken = "") -> Caller:
        check_form(request, form_token)
        return let_in(request, None, needed, form=True)

    return sender


def check_form(request: Request, token: str) -> None:
    """Raise Refused (403) for a form that another site made its visitor send."""
    access: Access = request.app.state.access
    if _is_elsewhere(request) or not access.sessions.is_own_form(request, token):
        raise Refused(
            403,
            "this form was not opened here, or before you logged in or out; open the page again, and send it once more",
            code=ProblemCode.FOREIGN_REQUEST,
        )


def _is_elsewhere(request: Request) -> bool:
    return request.headers.get("sec-fetch-site") in _ELSEWHERE


def sender_or_nobody(request: Request, form_token: FormToken = "") -> Caller | None:
    """Return who sends a form that is worth keeping; None: it is old, or they are not logged in any more.

    Raises Refused (403) for another site's, and for whoever is logged in and may not send it.
    """
    try:
        check_form(request, form_token)
        return let_in(request, None, Role.SUBMIT, form=True)
    except Refused as refused:
        if _is_elsewhere(request) or refused.code is ProblemCode.ROLE_REQUIRED:
            raise
        return None


Visitor = Annotated[Caller, Depends(visitor)]
Submitter = Annotated[Caller, Depends(submitter)]
Overseer = Annotated[Caller, Depends(overseer)]
Sender = Annotated[Caller, Depends(by_own_form(Role.SUBMIT))]
Operator = Annotated[Caller, Depends(by_own_form(Role.ADMIN))]
SenderOrNobody = Annotated[Caller | None, Depends(sender_or_nobody)]

router = page_router()
Next = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/login")
def show_login(request: Request, leads_to: Next = "/") -> Response:
    """Ask for a key."""
    try:
        known: Caller | None = let_in(request, None, Role.READ)
    except Refused:
        known = None
    return html(request, "login.html", leads_to=leads_to, known=known, wrong=None, kept="")


def ask_again(request: Request, kept: Mapping[str, str]) -> Response:
    """Ask somebody for their key whose login ended while they filled in the form to submit, which is not lost."""
    wrong = "Your login has ended. Log in again: what you wrote is kept."
    said = json.dumps({name: text for name, text in kept.items() if text})
    return html(request, "login.html", status=401, leads_to="/submit", known=None, wrong=wrong, kept=said)


@router.post("/login/send")
def log_in(
    request: Request,
    key: Annotated[str, Form(max_length=200)] = "",
    leads_to: Annotated[str, Form(alias="next", max_length=2000)] = "/",
    kept: Annotated[str, Form()] = "",
    form_token: FormToken = "",
) -> Response:
    """Log a browser in with a key, and lead it to the page that it wanted, or back to the form that it sent."""
    check_form(request, form_token)
    access: Access = request.app.state.access
    keys: Keys = access.keys
    found = keys.find(key.strip())
    if found is None:
        wrong = "This key is unknown, expired or revoked."
        return html(request, "login.html", status=403, leads_to=leads_to, known=None, wrong=wrong, kept=kept)
    login = access.sessions.begin(request, found)
    # Never to another site: `//host` is one.
    here = leads_to.startswith("/") and not leads_to.startswith(("//", "/\\"))
    order = _order_of(kept)
    response = html(request, "kept.html", order=order) if order else go_to(request, leads_to if here else "/")
    access.sessions.note_login(request, response, login)
    return response


def _order_of(kept: str) -> Mapping[str, str]:
    """Return the fields of the form that was kept; none where there was none."""
    with suppress(ValueError):
        said = json.loads(kept)
        if isinstance(said, dict):
            names = {field.name for field in dataclasses.fields(OrderFields)}
            return {name: text for name, text in said.items() if name in names and isinstance(text, str)}
    return {}


@router.post("/logout")
def log_out(request: Request, form_token: FormToken = "") -> Response:
    """Log a browser out."""
    check_form(request, form_token)
    access: Access = request.app.state.access
    response = go_to(request, "/login")
    # Pictures that the browser has kept.
    response.headers["Clear-Site-Data"] = '"cache"'
    access.sessions.end(request, response)
    return response
