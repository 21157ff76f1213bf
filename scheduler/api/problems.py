"""Errors as problem documents (RFC 9457): what is wrong, in which field, and what to do."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from storage.errors import (
    FarmError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    ServiceProblem,
)
from storage.spec.picture import explain_problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: When to ask again where a service is away.
_RETRY_SECONDS = 5


class FieldProblem(BaseModel):
    field: str = Field(description="Where in the body, path or query, such as `prompt` or `product.steps`.")
    message: str


class Problem(BaseModel):
    """A problem document."""

    type: str = Field("about:blank", description="A URI of the kind of problem; about:blank: the status says it.")
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = Field(default_factory=list, description="The fields that are wrong, where some are.")


class Refused(FarmError):
    """Raised by a route to refuse a request with this status."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})


#: `width: must be …`, also behind a place: `rows.jsonl line 3: width: must be …`.
_NAMED_FIELD = re.compile(r"(?:[^:\n]* \d+: )?(\w+(?:, \w+)*): (.*)", re.DOTALL)

_TITLES = {
    400: "Bad request",
    401: "Who are you?",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Asked otherwise before",
    413: "Too large",
    415: "Not JSON",
    422: "Cannot be rendered as asked",
    429: "Too much at once",
    500: "The farm has a fault",
    503: "A service is away",
    504: "Not finished yet",
}

#: For routes' `responses`: what each may answer beside its own answers.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": _TITLES[status], "content": {MEDIA_TYPE: {}}}
    for status in (400, 401, 403, 404, 409, 413, 422, 429, 500, 503)
}


def responses_in(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The same behind the doors of other clients, with errors as they know them."""
    return {status: {"model": model, "description": _TITLES.get(int(status), "")} for status in (*RESPONSES, 504)}


#: Paths whose callers expect errors in another form → what makes that form of a status, words and field names.
Form = Callable[[int, str, Sequence[str]], dict[str, Any]]


def answer(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document; behind the doors of other clients, an error as they know it."""
    forms: Mapping[str, Form] = request.app.state.error_forms
    for prefix, form in forms.items():
        if request.url.path.startswith(prefix):
            return JSONResponse(form(status, detail, [error.field for error in errors]), status, headers=headers)
    problem = Problem(title=_TITLES.get(status, "Problem"), status=status, detail=detail, errors=list(errors))
    return JSONResponse(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def answer_with_problems(app: FastAPI, forms: Mapping[str, Form]) -> None:
    """Every error of the application's becomes a problem document, or has its form by the beginning of the path."""
    app.state.error_forms = dict(forms)
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(FarmError, _farm)
    app.add_exception_handler(Exception, _fault)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = []
    for problem in error.errors()[:20]:
        words = explain_problem({**problem, "loc": _place(problem["loc"])})
        field, colon, message = words.partition(": ")
        errors.append(FieldProblem(field=field, message=message) if colon else FieldProblem(field="", message=words))
    first = errors[0]
    return answer(request, 422, f"{first.field}: {first.message}" if first.field else first.message, errors=errors)


def _place(location: Sequence[Any]) -> tuple[Any, ...]:
    """Without where it came (body, query) and which of a field's types was tried, such as `list[str]`."""
    return tuple(
        part for part in location[1:] if isinstance(part, int) or (part.isidentifier() and part not in ("str", "list"))
    )


def _http(request: Request, error: HTTPException) -> JSONResponse:
    return answer(request, error.status_code, str(error.detail), headers=error.headers)


def _farm(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return answer(request, error.status, str(error), headers=error.headers)
    if isinstance(error, NotFound):
        return answer(request, 404, str(error))
    if isinstance(error, IdempotencyConflict):
        return answer(request, 409, str(error))
    if isinstance(error, NotPermitted):
        return answer(request, 403, str(error))
    if isinstance(error, QuotaExceeded):
        return answer(request, 429, str(error), headers={"Retry-After": str(error.retry_seconds)})
    if isinstance(error, InvalidInput):
        named = _NAMED_FIELD.fullmatch(str(error))
        errors = [FieldProblem(field=named[1], message=named[2])] if named else []
        return answer(request, 422, str(error), errors=errors)
    if isinstance(error, ServiceProblem):
        log.warning("answered 503", extra={"error": error})
        # Its words name addresses, which are nobody's business outside.
        return answer(
            request,
            503,
            "a service that the farm needs is away; try again",
            headers={"Retry-After": str(_RETRY_SECONDS)},
        )
    return _fault(request, error)


def _fault(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", extra={"method": request.method, "path": request.url.path}, exc_info=error)
    return answer(request, 500, "this is a fault of the farm; its log says more")
