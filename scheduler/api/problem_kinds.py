"""The kinds of problems that the API answers with: a stable code for programs, and what to do about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ProblemCode(StrEnum):
    """What went wrong, for programs. A code keeps its meaning; there may be new ones."""

    MALFORMED_BODY = "malformed_body"
    API_KEY_REQUIRED = "api_key_required"
    INVALID_API_KEY = "invalid_api_key"
    ROLE_REQUIRED = "role_required"
    NOT_PERMITTED = "not_permitted"
    FOREIGN_REQUEST = "foreign_request"
    NOT_FOUND = "not_found"
    NO_SUCH_ADDRESS = "no_such_address"
    NOT_SUPPORTED = "not_supported"
    NO_PICTURE = "no_picture"
    NO_PREVIEW = "no_preview"
    SIGNED_URL_INVALID = "signed_url_invalid"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    RENDER_CANCELLED = "render_cancelled"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_FIELD = "invalid_field"
    RENDER_FAILED = "render_failed"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    CLIENT_CLOSED_REQUEST = "client_closed_request"
    INTERNAL_ERROR = "internal_error"
    SERVICE_UNAVAILABLE = "service_unavailable"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True, kw_only=True)
class ProblemKind:
    """Describe a kind of problem."""

    #: The status that it mostly comes with.
    status: int
    title: str
    #: What it means, and what to do.
    meaning: str


KINDS: Mapping[ProblemCode, ProblemKind] = {
    ProblemCode.MALFORMED_BODY: ProblemKind(
        status=400,
        title="The body cannot be read",
        meaning="The body is not what its Content-Type says, such as broken JSON. Correct it; the detail says where.",
    ),
    ProblemCode.API_KEY_REQUIRED: ProblemKind(
        status=401,
        title="An API key is required",
        meaning="Send a key: `Authorization: Bearer farm_…`, `X-API-Key`, or as the password of HTTP Basic. "
        "`farm keys create` makes one.",
    ),
    ProblemCode.INVALID_API_KEY: ProblemKind(
        status=401,
        title="The API key lets nobody in",
        meaning="The key is unknown, expired or revoked. Ask whoever runs the farm for another one.",
    ),
    ProblemCode.ROLE_REQUIRED: ProblemKind(
        status=403,
        title="The API key may not do this",
        meaning="The key's role does not cover this request; the detail names the role that does.",
    ),
    ProblemCode.NOT_PERMITTED: ProblemKind(
        status=403,
        title="More than the API key ever allows",
        meaning="The request alone exceeds a limit of its key: waiting does not help. Ask for less at a time.",
    ),
    ProblemCode.FOREIGN_REQUEST: ProblemKind(
        status=403,
        title="The request comes from elsewhere",
        meaning="Without API keys the farm answers only programs of this machine, and pages named in "
        "FARM_CORS_ORIGINS. Make a key, and send it.",
    ),
    ProblemCode.NOT_FOUND: ProblemKind(
        status=404,
        title="There is no such thing",
        meaning="No render, job, schedule, file or model of yours has this name. It may have been deleted.",
    ),
    ProblemCode.NO_SUCH_ADDRESS: ProblemKind(
        status=404, title="There is no such address", meaning="Nothing is served here; `GET /docs` lists what is."
    ),
    ProblemCode.NOT_SUPPORTED: ProblemKind(
        status=404,
        title="Another service has this, the farm has not",
        meaning="Clients of other services know this address. The detail says what the farm does instead.",
    ),
    ProblemCode.NO_PICTURE: ProblemKind(
        status=404,
        title="The job has no picture",
        meaning="It is not done yet, or has failed, or was cancelled (`GET /v1/jobs/ID` tells its state), or its "
        "file is no longer in the object store as it was stored; the detail says which.",
    ),
    ProblemCode.NO_PREVIEW: ProblemKind(
        status=404,
        title="The job has no preview",
        meaning="It is finished (`GET /v1/jobs/ID/image` has its picture), or it is not known how latents of its model "
        "look; the detail says which. `GET /v1/jobs/ID` tells how far it is.",
    ),
    ProblemCode.SIGNED_URL_INVALID: ProblemKind(
        status=404,
        title="The signed URL lets nobody in",
        meaning="It is older than an hour, or was changed. Ask for a new one where it came from.",
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ProblemKind(
        status=405, title="The method does nothing here", meaning="The header `Allow` lists the methods that do."
    ),
    ProblemCode.CONFLICT: ProblemKind(
        status=409,
        title="The state does not allow it",
        meaning="What was asked for cannot be done as things are; the detail says why.",
    ),
    ProblemCode.IDEMPOTENCY_CONFLICT: ProblemKind(
        status=409,
        title="The idempotency key names another request",
        meaning="A different request came under this `Idempotency-Key` before. Use a new one.",
    ),
    ProblemCode.RENDER_CANCELLED: ProblemKind(
        status=409, title="The render was cancelled", meaning="Somebody cancelled it while it was waited for."
    ),
    ProblemCode.BODY_TOO_LARGE: ProblemKind(
        status=413, title="The body is too large", meaning="Split it, or upload a prompt file (`POST /v1/files`)."
    ),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: ProblemKind(
        status=415,
        title="The body is not of the right type",
        meaning="Send JSON as `application/json`, files as `multipart/form-data`, and nothing compressed.",
    ),
    ProblemCode.INVALID_FIELD: ProblemKind(
        status=422, title="A field is wrong", meaning="`errors` names each wrong field, and says what is wrong with it."
    ),
    ProblemCode.RENDER_FAILED: ProblemKind(
        status=422,
        title="A picture failed",
        meaning="The request was accepted, and one of its pictures cannot be rendered; the detail says why.",
    ),
    ProblemCode.RATE_LIMIT_EXCEEDED: ProblemKind(
        status=429,
        title="More than the API key allows now",
        meaning="Try again after `Retry-After` seconds. `RateLimit-Policy` lists the key's limits.",
    ),
    ProblemCode.CLIENT_CLOSED_REQUEST: ProblemKind(
        status=499, title="The caller has gone", meaning="Nobody reads this answer; it stands in the log."
    ),
    ProblemCode.INTERNAL_ERROR: ProblemKind(
        status=500,
        title="A fault of the farm",
        meaning="The API's log has it under the request's id (`request_id`). Report it to whoever runs the farm.",
    ),
    ProblemCode.SERVICE_UNAVAILABLE: ProblemKind(
        status=503,
        title="Not now",
        meaning="The API is stopping or full, or a service behind it is away. Try again after `Retry-After` seconds.",
    ),
    ProblemCode.NOT_FINISHED: ProblemKind(
        status=504,
        title="The render is not finished yet",
        meaning="It goes on, and was waited for as long as is possible. `GET /v1/renders/ID` tells how it stands.",
    ),
}

#: What is meant where nothing more is said than a status.
_OF_STATUS: Mapping[int, ProblemCode] = {
    400: ProblemCode.MALFORMED_BODY,
    401: ProblemCode.API_KEY_REQUIRED,
    403: ProblemCode.NOT_PERMITTED,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
    409: ProblemCode.CONFLICT,
    413: ProblemCode.BODY_TOO_LARGE,
    415: ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    422: ProblemCode.INVALID_FIELD,
    429: ProblemCode.RATE_LIMIT_EXCEEDED,
    499: ProblemCode.CLIENT_CLOSED_REQUEST,
    503: ProblemCode.SERVICE_UNAVAILABLE,
    504: ProblemCode.NOT_FINISHED,
}


def code_of(status: int) -> ProblemCode:
    """Return the code of a problem of which only the status is known."""
    fallback = ProblemCode.INTERNAL_ERROR if status >= 500 else ProblemCode.CONFLICT
    return _OF_STATUS.get(status, fallback)


def address_of(code: ProblemCode) -> str:
    """Return the URI of a kind of problem: an address of this API, the same by whatever name it is reached."""
    return f"/problems/{code}"
