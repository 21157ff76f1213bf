"""Who looks at a page, and whose forms are read; logging in and out."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Form, Query, Request, Response

from scheduler.api.access import Access, Caller, let_in
from scheduler.api.page.serving import go_to, html, page_router
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from storage.access.keys import Keys, Role

#: Of a form that was opened elsewhere, as browsers tell it.
_ELSEWHERE = ("cross-site", "same-site")

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
    elsewhere = request.headers.get("sec-fetch-site") in _ELSEWHERE
    if elsewhere or not access.sessions.is_own_form(request, token):
        raise Refused(
            403,
            "this form was not opened here, or before you logged in or out; open the page again, and send it once more",
            code=ProblemCode.FOREIGN_REQUEST,
        )


Visitor = Annotated[Caller, Depends(visitor)]
Submitter = Annotated[Caller, Depends(submitter)]
Overseer = Annotated[Caller, Depends(overseer)]
Sender = Annotated[Caller, Depends(by_own_form(Role.SUBMIT))]
Operator = Annotated[Caller, Depends(by_own_form(Role.ADMIN))]

router = page_router()
Next = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/login")
def show_login(request: Request, leads_to: Next = "/") -> Response:
    """Ask for a key."""
    try:
        known: Caller | None = let_in(request, None, Role.READ)
    except Refused:
        known = None
    return html(request, "login.html", leads_to=leads_to, known=known, wrong=None)


@router.post("/login/send")
def log_in(
    request: Request,
    key: Annotated[str, Form(max_length=200)] = "",
    leads_to: Annotated[str, Form(alias="next", max_length=2000)] = "/",
    form_token: FormToken = "",
) -> Response:
    """Log a browser in with a key, and lead it to the page that it wanted."""
    check_form(request, form_token)
    access: Access = request.app.state.access
    keys: Keys = access.keys
    found = keys.find(key.strip())
    if found is None:
        wrong = "This key is unknown, expired or revoked."
        return html(request, "login.html", status=403, leads_to=leads_to, known=None, wrong=wrong)
    # Never to another site: `//host` is one.
    here = leads_to.startswith("/") and not leads_to.startswith(("//", "/\\"))
    response = go_to(request, leads_to if here else "/")
    access.sessions.begin(request, response, found)
    return response


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
