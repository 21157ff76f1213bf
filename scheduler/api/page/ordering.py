"""The form to submit a render: it is checked and estimated first, and sent when that was seen."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeGuard

from fastapi import Depends, Query, Request, Response, UploadFile
from pydantic import ValidationError

from scheduler.api import renders as api
from scheduler.api.access import Caller, let_in
from scheduler.api.context import ApiContext, Context
from scheduler.api.fleet import get_model, list_models, upload_file
from scheduler.api.page.fields import READINGS, OrderFields, OrderFiles, fields_of, lines_of, order_of, text_of
from scheduler.api.page.serving import go_to, html, page_router, problem_of
from scheduler.api.page.visitors import OLD_FORM, SenderOrNobody, Submitter, ask_again
from scheduler.api.page.words import counted
from scheduler.api.problems import Refused
from scheduler.api.request_bodies import RenderBody
from scheduler.api.response_models import DryAnswer
from storage.access.keys import Role
from storage.errors import BadSpecification, FarmError, ServiceProblem
from storage.spec.explanations import explain
from storage.spec.sampler_names import SAMPLERS

router = page_router()


@router.get("/submit")
def show_form(
    request: Request,
    context: Context,
    caller: Submitter,
    model: Annotated[str | None, Query(max_length=63)] = None,
    like: Annotated[str | None, Query(alias="from", pattern=r"^[0-9a-z]{1,32}-\d{1,9}$")] = None,
) -> Response:
    """Show the form, filled in as a picture was made if one is named."""
    said = {} if like is None else context.job(caller, like).spec.fields()
    values = {name: text_of(said.get(name)) for name in asdict(OrderFields())}
    values["sampler"] = SAMPLERS.get(values["sampler"], values["sampler"])
    alias = model or values["model"] or context.registry.default
    values |= {"model": alias, "once": secrets.token_urlsafe(9), "read_as": "one"}
    if said.get("negative_prompt") == "" and defaults_of(context, alias).get("negative_prompt"):
        values["no_negative"] = "on"
    return _form(request, context, caller, values)


@router.post("/submit/send")
def send_form(
    request: Request,
    context: Context,
    caller: SenderOrNobody,
    fields: Annotated[OrderFields, Depends()],
    sent: Annotated[OrderFiles, Depends()],
) -> Response:
    """Check a form, and show what it would come to; submit it if that was seen."""
    if caller is None:
        return _shown_again(request, context, fields)
    try:
        fields = _with_files(context, caller, fields, sent)
        if fields.look:
            return _form(request, context, caller, {**asdict(fields), "look": "", "checked": ""})
        values = asdict(_of_one_source(fields))
        digest = _digest(values)
        once = f"page {fields.once} {digest}"
        call = api.SubmitCall(context, caller, request, once)
        body = body_of(order_of(values))
        if fields.checked != digest:
            estimate = api.check_render(call, body.model_copy(update={"dry_run": True}))
            return _form(request, context, caller, {**values, "checked": digest}, estimate=estimate)
        answer = api.submitted(call, body)
    except ServiceProblem:
        raise
    except FarmError as error:
        problem = problem_of(request, error)
        return _form(request, context, caller, {**asdict(fields), "checked": ""}, problem=problem)
    remarks = "".join(f"\n{remark}" for remark in answer.remarks)
    return go_to(request, f"/renders/{answer.id}", f"Submitted: {counted(answer.total, 'picture')}.{remarks}")


def _shown_again(request: Request, context: ApiContext, fields: OrderFields) -> Response:
    """Answer a form of an old page, or of a login that has ended, without losing what was written."""
    values = {**asdict(fields), "look": "", "checked": ""}
    try:
        caller = let_in(request, None, Role.SUBMIT, form=True)
    except Refused:
        return ask_again(request, values)
    return _form(request, context, caller, values, problem={"status": 403, "detail": OLD_FORM})


def body_of(order: Mapping[str, Any]) -> RenderBody:
    """Read an order as the API reads it. Raises BadSpecification naming the first wrong field."""
    try:
        return RenderBody.model_validate(dict(order))
    except ValidationError as error:
        raise BadSpecification(explain(error, RenderBody)) from None


def defaults_of(context: ApiContext, alias: str) -> Mapping[str, Any]:
    """Return the defaults of a model; none of one that is not registered any more."""
    model = context.registry.models.get(alias)
    return {} if model is None else model.defaults


def _form(
    request: Request,
    context: ApiContext,
    caller: Caller,
    values: Mapping[str, str],
    *,
    estimate: DryAnswer | None = None,
    problem: Mapping[str, Any] | None = None,
) -> Response:
    models = list_models(context, caller).data
    # A model that is not registered any more is told of, and another one shown.
    known = {model.id for model in models}
    alias = values["model"] if values["model"] in known else context.registry.default
    shown = get_model(context, alias, caller)
    return html(
        request,
        "submit.html",
        status=200 if problem is None else problem["status"],
        models=models,
        model=shown,
        fields=fields_of(shown, defaults_of(context, alias)),
        values=values,
        estimate=estimate,
        templates=lines_of(values["prompt"]) if values["read_as"] == "template" else [],
        problem=problem,
        loras=sorted(context.registry.loras),
        readings=READINGS,
    )


def _with_files(context: ApiContext, caller: Caller, fields: OrderFields, sent: OrderFiles) -> OrderFields:
    """Store the files that come with a form; it names them from then on, as long as they are meant."""
    if fields.without_file:
        fields = replace(fields, manifest="", without_file="")
    if _is_there(sent.prompt_file):
        stored = upload_file(context, sent.prompt_file, caller, "manifest")
        fields = replace(fields, manifest=stored.id)
    if _is_there(sent.control_file):
        stored = upload_file(context, sent.control_file, caller, "input")
        fields = replace(fields, control_images=", ".join(filter(None, (fields.control_images, stored.reference))))
    return fields


def _of_one_source(fields: OrderFields) -> OrderFields:
    if fields.manifest and fields.prompt.strip():
        raise BadSpecification("prompt: not together with a prompt file; leave out one of them")
    return fields


def _is_there(file: UploadFile | None) -> TypeGuard[UploadFile]:
    # A browser sends a file without a name where none was chosen.
    return file is not None and bool(file.filename)


def _digest(values: Mapping[str, str]) -> str:
    said = {name: text for name, text in values.items() if name not in ("checked", "once")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]
