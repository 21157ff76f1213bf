"""Errors of the client: one for each kind of answer that a program handles differently."""

from collections.abc import Mapping, Sequence
from typing import Any


class ApiProblem(Exception):
    """Raised when the farm refuses a request; the base of all errors below.

    Attributes:
        status: of HTTP.
        code: the kind of problem, for programs (`GET /problems` lists all); None if the answer has none.
        errors: the invalid fields, each with `field` and `message`.
        request_id: by which the API's log has it.
        retry_after: seconds after which a retry makes sense; None: unknown, or never.
    """

    def __init__(
        self, status: int, detail: str, errors: Sequence[dict[str, str]] = (), *, code: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.errors = list(errors)
        self.request_id: str | None = None
        self.retry_after: float | None = None


class InvalidRequestProblem(ApiProblem):
    """Raised when a request is wrong: a field, the body, its type or its size."""


class AuthenticationProblem(ApiProblem):
    """Raised when the API key is missing, unknown, expired or revoked."""


class PermissionProblem(ApiProblem):
    """Raised when the API key does not allow a request, now or later."""


class NotFoundProblem(ApiProblem):
    """Raised when there is no such render, job, schedule, model or address."""


class ConflictProblem(ApiProblem):
    """Raised when the state of things does not allow a request."""


class IdempotencyConflictProblem(ConflictProblem):
    """Raised when the idempotency key was used for another request."""


class RateLimitProblem(ApiProblem):
    """Raised when the limits of the API key leave no room for a request; `retry_after` says for how long."""


class ServerProblem(ApiProblem):
    """Raised when the farm has a fault, or cannot answer now."""


_BY_CODE: Mapping[str, type[ApiProblem]] = {"idempotency_conflict": IdempotencyConflictProblem}
_BY_STATUS: Mapping[int, type[ApiProblem]] = {
    **dict.fromkeys((400, 405, 413, 415, 422), InvalidRequestProblem),
    401: AuthenticationProblem,
    403: PermissionProblem,
    404: NotFoundProblem,
    409: ConflictProblem,
    429: RateLimitProblem,
    **dict.fromkeys((500, 502, 503, 504), ServerProblem),
}


def problem_of(status: int, told: Any, headers: Mapping[str, str]) -> ApiProblem:
    """Return the error that an answer is; `told`: its JSON, whatever it is."""
    told = told if isinstance(told, dict) else {}
    code = told.get("code")
    kind = _BY_CODE.get(str(code)) or _BY_STATUS.get(status, ApiProblem)
    problem = kind(status, str(told.get("detail", f"HTTP {status}")), told.get("errors", ()), code=code)
    problem.request_id = headers.get("x-request-id")
    patience = headers.get("retry-after", "")
    problem.retry_after = float(patience) if patience.isdigit() else None
    return problem
