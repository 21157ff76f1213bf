"""One picture's page: large, with everything that went into it, and ways to make it again or another one."""

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Form, Header, Request, Response

from scheduler.api import previews
from scheduler.api import renders as api
from scheduler.api.access import Caller
from scheduler.api.context import ApiContext, Context
from scheduler.api.histories import get_history_of_job
from scheduler.api.page.ordering import body_of, defaults_of
from scheduler.api.page.serving import go_to, html, page_router
from scheduler.api.page.visitors import Sender, Visitor
from scheduler.api.page.words import as_json, command_line, counted, order_of_spec
from scheduler.api.parameters import JobId
from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from storage.errors import ObjectStoreProblem
from storage.rules.ids import job_id as named

_MOST_VARIATIONS = 1000
#: Drawn for each page.
Once = Annotated[str, Form(max_length=100)]
_KEPT = "private, max-age=600"

router = page_router()


@router.get("/pictures/{job_id}")
def show_picture(request: Request, context: Context, job_id: JobId, caller: Visitor) -> Response:
    """Show a picture, with its recipe and what became of its attempts."""
    job = api.get_job(context, job_id, caller)
    render = context.render(caller, job.render)
    spec = {name: value for name, value in (job.spec or {}).items() if value is not None}
    return html(
        request,
        "picture.html",
        job=job,
        previews=context.previews is not None,
        before=named(job.render, job.index - 1) if job.index else None,
        after=named(job.render, job.index + 1) if job.index + 1 < render.total else None,
        spec=spec,
        recipe=_flat(job.made_with or {}),
        history=get_history_of_job(context, job_id, caller),
        is_lost=_is_lost(context, job.object),
        order=as_json(order_of_spec(spec)),
        command=command_line(spec, defaults_of(context, spec.get("model", ""))),
        most=_MOST_VARIATIONS,
        once=secrets.token_urlsafe(9),
    )


@router.get("/pictures/{job_id}/file")
def get_file(request: Request, context: Context, job_id: JobId, caller: Visitor) -> Response:
    """Return a picture's file, from here: pages ask no other host."""
    job = context.job(caller, job_id)
    if job.object is None:
        raise Refused(404, f"job {job.id} is {job.state} and has no picture", code=ProblemCode.NO_PICTURE)
    # Kept by the browser for a while: a page that is followed shows it anew with each of its neighbours.
    headers = {
        "ETag": f'"{job.sha256}"',
        "Cache-Control": _KEPT,
        # Not by whoever logs in next in the same browser.
        "Vary": "Cookie",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(context.file_of(job), media_type="image/png", headers=headers)


@router.get("/pictures/{job_id}/preview")
def get_preview(
    context: Context, job_id: JobId, caller: Visitor, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return how a picture looks that is being denoised; nothing, without `Retry-After`, if it never will be seen."""
    try:
        return previews.get_preview(context, job_id, caller, if_none_match)
    except Refused as refused:
        if refused.code is not ProblemCode.NO_PREVIEW:
            raise
        # No error: a browser would complain of one to whoever looks into it.
        return Response(status_code=204, headers=refused.headers)


@router.post("/pictures/{job_id}/again")
def make_again(request: Request, context: Context, job_id: JobId, caller: Sender, once: Once = "") -> Response:
    """Submit a picture's specification once more, with its seed."""
    call = api.SubmitCall(context, caller, request, _named(once, "again", job_id))
    return _submitted(call, order_of_spec(_spec(context, caller, job_id)))


@router.post("/pictures/{job_id}/vary")
def vary(
    request: Request,
    context: Context,
    job_id: JobId,
    caller: Sender,
    n: Annotated[int, Form(ge=1, le=_MOST_VARIATIONS)] = 4,
    once: Once = "",
) -> Response:
    """Submit a picture's specification with new seeds."""
    order = {name: value for name, value in order_of_spec(_spec(context, caller, job_id)).items() if name != "seed"}
    return _submitted(api.SubmitCall(context, caller, request, _named(once, f"{n} of", job_id)), {**order, "n": n})


@router.post("/pictures/{job_id}/cancel")
def cancel(request: Request, context: Context, job_id: JobId, caller: Sender) -> Response:
    """Cancel one picture."""
    answer = api.cancel_job(context, job_id, caller)
    said = "Cancelled." if answer.cancelled else f"Nothing was left to cancel: it is {answer.state}."
    return go_to(request, f"/pictures/{job_id}", said)


@router.post("/pictures/{job_id}/delete")
def delete(request: Request, context: Context, job_id: JobId, caller: Sender) -> Response:
    """Delete one picture."""
    render_id = context.job(caller, job_id).render_id
    api.cancel_job(context, job_id, caller, purge=True)
    return go_to(request, f"/renders/{render_id}", f"Picture {job_id} is deleted.")


def _is_lost(context: ApiContext, key: str | None) -> bool:
    """Return whether a stored picture is gone; where the store does not answer, nobody knows, and the page is shown."""
    try:
        return key is not None and not context.objects.exists(key)
    except ObjectStoreProblem:
        return False


def _spec(context: ApiContext, caller: Caller, job_id: str) -> Mapping[str, Any]:
    return context.job(caller, job_id).spec.fields()


def _named(once: str, what: str, job_id: str) -> str | None:
    """Return a name for what a button does: pressed twice on the same page, it is done once."""
    return f"page {once} {what} {job_id}" if once else None


def _submitted(call: api.SubmitCall, order: Mapping[str, Any]) -> Response:
    answer = api.submitted(call, body_of(order))
    remarks = "".join(f"\n{remark}" for remark in answer.remarks)
    return go_to(call.request, f"/renders/{answer.id}", f"Submitted: {counted(answer.total, 'picture')}.{remarks}")


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a recipe as a list of names and values."""
    found: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found
