"""Answer errors as problem documents (RFC 9457): what is wrong, in which field, and what to do."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from scheduler.api.json_bodies import WrongField
from scheduler.api.parameters import STREAMED
from scheduler.api.problem_kinds import ProblemCode, address_of, code_of
from scheduler.api.request_ids import HEADER as REQUEST_ID
from scheduler.api.request_ids import request_id_of
from storage.errors import (
    FarmError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    ServiceProblem,
)
from storage.spec.explanations import explain_problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Retry-After while a service is unavailable.
_RETRY_SECONDS = 5


class FieldProblem(BaseModel):
    """Name a wrong field."""

    field: str = Field(description="Where in the body, path or query, such as `prompt` or `product.steps`.")
    message: str = Field(description="What is wrong with it, and what is right.")


class Problem(BaseModel):
    """Hold a problem document (RFC 9457)."""

    type: str = Field(
        description="The address of this kind of problem, which describes it.", examples=["/problems/invalid_field"]
    )
    code: ProblemCode = Field(description="The kind of problem, for programs; `GET /problems` lists all.")
    title: str = Field(description="The status in HTTP's words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong here, and what to do, for people.")
    errors: list[FieldProblem] = Field(default_factory=list, description="The fields that are wrong, if any.")
    request_id: str | None = Field(
        None, description="The id of the request, as in the header `X-Request-ID`; the API's log lines have it, too."
    )


class Refused(FarmError):
    """Raised when a route refuses a request, with this status."""

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, *, code: ProblemCode | None = None
    ) -> None:
        """Prepare an answer; `code`: the kind of problem, where the status does not tell it."""
        super().__init__(detail)
        self.status = status
        self.code = code or code_of(status)
        self.headers = dict(headers or {})


#: `width: must be …`, also behind a place: `rows.jsonl line 3: width: must be …`.
_NAMED_FIELD = re.compile(r"(?:[^:\n]* \d+: )?([\w\[\]-]+(?:, [\w\[\]-]+)*): (.*)", re.DOTALL)

_NAMES = re.compile(r"[\w.-]+(?:, [\w.-]+)*")

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

#: Addresses of the farm that OpenAI's clients call, and the header by which they are known.
_SHARED_WITH_OPENAI = ("/v1/models", "/v1/files")
_OF_OPENAIS_CLIENT = "x-stainless-lang"
#: FastAPI's words for a body that it failed to read.
_UNREADABLE = "There was an error parsing the body"

#: For routes' `responses`: the errors that each may answer.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": _TITLES[status], "content": {MEDIA_TYPE: {}}}
    for status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)
}


def responses_in(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the same for another protocol, with errors in its own form."""
    return {status: {"model": model, "description": _TITLES.get(int(status), "")} for status in (*RESPONSES, 504)}


class QuotingAnswer(JSONResponse):
    """JSON that may quote what is no text: half of a character (a lone surrogate), which JSON can escape."""

    def render(self, content: Any) -> bytes:
        # Of such text, `backslashreplace` makes what JSON writes: `\ud800`.
        said = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return said.encode("utf-8", "backslashreplace")


#: Makes a protocol's own form of an error of its status, code, detail and field names.
Form = Callable[[int, ProblemCode, str, Sequence[str]], dict[str, Any]]


def answer(
    request: Request,
    status: int,
    detail: str,
    *,
    code: ProblemCode | None = None,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document or, below the path of another protocol, an error in its own form."""
    code = code or code_of(status)
    request_id = request_id_of(request.scope)
    headers = {**(headers or {}), REQUEST_ID: request_id}
    form = _form_for(request)
    if form is not None:
        return QuotingAnswer(form(status, code, detail, [error.field for error in errors]), status, headers=headers)
    problem = Problem(
        type=address_of(code),
        code=code,
        title=_TITLES.get(status, "Problem"),
        status=status,
        detail=detail,
        errors=list(errors),
        request_id=request_id,
    )
    return QuotingAnswer(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def _form_for(request: Request) -> Form | None:
    """Return the form of errors that a request's client knows; None: problem documents."""
    path = request.url.path
    forms: Mapping[str, Form] = request.app.state.error_forms
    found = next((form for prefix, form in forms.items() if path.startswith(prefix)), None)
    if found is None and path.startswith(_SHARED_WITH_OPENAI) and _OF_OPENAIS_CLIENT in request.headers:
        return request.app.state.openai_form  # type: ignore[no-any-return]
    return found


def answer_with_problems(
    app: FastAPI, forms: Mapping[str, Form], openai_form: Form, instead: Callable[[str], str | None]
) -> None:
    """Answer every error of the application with a problem document, or in the form of its path's protocol.

    Args:
        openai_form: for OpenAI's own clients, at addresses that are the farm's, too.
        instead: what to say of an address that is not here; None: nothing is known of it.
    """
    app.state.error_forms = dict(forms)
    app.state.openai_form = openai_form
    app.state.instead = instead
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(FarmError, _farm)
    app.add_exception_handler(Exception, fault)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    problems = innermost(error.errors())
    # What was not read at all comes first: no field of it can be wrong.
    for problem in problems:
        if words := _unread(request, problem):
            return answer(request, 415, words)
        if problem["type"] == "json_invalid":
            return answer(request, 400, _explained(request, problem, error.body))
    errors = []
    for problem in problems[:20]:
        words = _explained(request, problem, error.body)
        field, colon, message = words.partition(": ")
        named = colon and _NAMES.fullmatch(field)
        errors.append(FieldProblem(field=field if named else "", message=message if named else words))
    first = errors[0]
    return answer(request, 422, f"{first.field}: {first.message}" if first.field else first.message, errors=errors)


def innermost(problems: Sequence[Any]) -> list[Any]:
    """Leave out the problems of a place of which an inner place has one: the forms that were not meant."""
    places = [_place(problem["loc"]) for problem in problems]
    # A set, for there may be as many problems as a body has fields.
    outer = {place[:length] for place in places for length in range(len(place))}
    return [problem for problem, place in zip(problems, places, strict=True) if place not in outer]


def _unread(request: Request, problem: Mapping[str, Any]) -> str | None:
    """Return what to do about a body that was not read, since the request does not say that it is JSON or a form."""
    given, said = request.headers.get("content-type"), _said(request)
    expected = getattr(getattr(request.scope.get("route"), "dependant", None), "body_params", ())
    if expected and isinstance(expected[0].field_info, params.Form):
        if problem["type"] != "missing" or (given or "").startswith("multipart/form-data"):
            return None
        return f"the request {said}; a file is sent as multipart/form-data, in the field {expected[0].alias}"
    if tuple(problem["loc"]) != ("body",) or not isinstance(problem.get("input"), bytes):
        return None
    return not_json(request)


def not_json(request: Request) -> str:
    """Return what is said of a request whose body is not read, since it does not say that it is JSON."""
    return f"the request {_said(request)}; its body is read as JSON only with Content-Type: application/json"


def _said(request: Request) -> str:
    given = request.headers.get("content-type")
    return f"says Content-Type: {given[:100]}" if given else "has no Content-Type"


def _explained(request: Request, problem: Mapping[str, Any], body: Any) -> str:
    """Put a problem of a request into words: the field as it is written there, what is wrong, what was meant."""
    source, place = problem["loc"][0], problem["loc"]
    if problem["type"] == "json_invalid":
        text = body if isinstance(body, str) else ""
        before = text[: place[1]]
        at = f"line {before.count(chr(10)) + 1}, character {len(before) - before.rfind(chr(10))}"
        return f"the body is not valid JSON at {at}: {problem['ctx']['error']}"
    if problem["type"] == "missing" and tuple(place) == ("body",):
        return "the request has no body; send a JSON object with Content-Type: application/json"
    if tuple(place) == ("body",) and problem["type"] != "value_error":
        return f"the body {explain_problem(problem).removeprefix('body: ')}"
    if problem["type"] == "string_pattern_mismatch" and (example := _example(request, place)):
        return f"{place[-1]}: must be of the right form: {example} (given: {str(problem['input'])[:40]!r})"
    body_fields = getattr(getattr(request.scope.get("route"), "dependant", None), "body_params", ())
    model = body_fields[0].field_info.annotation if source == "body" and body_fields else None
    # The name of a field that is not known may be anything.
    own = (place[-1],) if problem["type"] == "extra_forbidden" else ()
    return explain_problem({**problem, "loc": (*_place(place[: len(place) - len(own)]), *own)}, model)


def _example(request: Request, place: Sequence[Any]) -> str | None:
    """Return what a parameter's description gives as an example, instead of the pattern that it must match."""
    route: Any = request.scope.get("route")
    for field in get_flat_params(route.dependant):
        description = str(field.field_info.description or "")
        if field.alias == place[-1] and description.startswith(("Such as", "As ")):
            return description[0].lower() + description[1:].rstrip(".")
    return None


def _place(location: Sequence[Any]) -> tuple[Any, ...]:
    """Return a location without its source (body, query) and without the type that was tried, such as `list[str]`."""
    if location[0] == "header":
        return ("-".join(word.capitalize() for word in str(location[1]).split("-")),)
    return tuple(
        part for part in location[1:] if isinstance(part, int) or (part.isidentifier() and part not in ("str", "list"))
    )


def _http(request: Request, error: HTTPException) -> JSONResponse:
    if isinstance(error, WrongField):
        named = FieldProblem(field=error.place, message=str(error.detail).removeprefix(f"{error.place}: "))
        return answer(request, error.status_code, str(error.detail), errors=[named])
    if error.status_code == 404 and error.detail == _TITLES[404]:
        instead = request.app.state.instead(request.url.path)
        words = instead or "GET /docs lists the addresses that there are"
        code = ProblemCode.NOT_SUPPORTED if instead else ProblemCode.NO_SUCH_ADDRESS
        return answer(request, 404, f"there is no {request.method} {request.url.path[:200]} here: {words}", code=code)
    if error.status_code == 400 and error.detail == _UNREADABLE:
        return answer(
            request, 400, "the body cannot be read as its Content-Type says; JSON must be UTF-8, and not deep"
        )
    if error.status_code == 405 and error.detail == _TITLES[405]:
        useful = _methods(request) or set((error.headers or {}).get("Allow", "GET").split(", "))
        # HEAD is answered as GET, but for what goes on and on (`scheduler.api.app`).
        allowed = useful | ({"HEAD"} if "GET" in useful and not request.url.path.endswith(STREAMED) else set())
        return answer(
            request,
            405,
            f"{request.method} does nothing at {request.url.path[:200]}; use {', '.join(sorted(useful))}",
            headers={**(error.headers or {}), "Allow": ", ".join(sorted(allowed))},
        )
    return answer(request, error.status_code, str(error.detail), headers=error.headers)


def _methods(request: Request) -> set[str]:
    """Return the methods that an address has, by all of its routes."""
    return {
        method.upper()
        for path, methods in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)
        for method in methods
    }


def _farm(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, Refused):
        return answer(request, error.status, str(error), code=error.code, headers=error.headers)
    if isinstance(error, NotFound):
        return answer(request, 404, str(error))
    if isinstance(error, IdempotencyConflict):
        return answer(request, 409, str(error), code=ProblemCode.IDEMPOTENCY_CONFLICT)
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
        # The message names addresses, which must not leak.
        return answer(
            request,
            503,
            "a service that the farm needs is unavailable; try again later",
            headers={"Retry-After": str(_RETRY_SECONDS)},
        )
    return fault(request, error)


def fault(request: Request, error: Exception) -> JSONResponse:
    """Answer what nobody expected: 500, and the traceback in the log."""
    log.error("request failed", extra={"method": request.method, "path": request.url.path}, exc_info=error)
    return answer(request, 500, "internal error; see the log of the API")
