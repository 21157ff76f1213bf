"""Let web pages of other origins use the API from a browser, as FARM_CORS_ORIGINS says: exact origins, or none.

Never with credentials: cookies are for the farm's own page, and others send their key in a header of its own.
"""

from collections.abc import Collection
from typing import Any

#: What a page may send beside what browsers always allow.
_REQUEST_HEADERS = (
    *("Authorization", "Content-Type", "X-API-Key", "Idempotency-Key", "Prefer", "Last-Event-ID", "X-Request-ID"),
    # Of OpenAI's client in a browser.
    *("x-stainless-arch", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version"),
    *("x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout"),
)
#: What a page may read beside what browsers always show.
_ANSWER_HEADERS = (
    *("X-Request-ID", "Location", "Retry-After", "Preference-Applied", "WWW-Authenticate", "Allow"),
    *("RateLimit", "RateLimit-Policy", "ETag", "Preview-Step", "Preview-Steps", "Preview-Status"),
    *("X-RateLimit-Limit-Requests", "X-RateLimit-Remaining-Requests", "X-RateLimit-Reset-Requests"),
)


def cors_options(origins: Collection[str]) -> dict[str, Any]:
    """Return the options of Starlette's CORSMiddleware for these origins."""
    return {
        "allow_origins": tuple(origins),
        "allow_methods": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
        "allow_headers": _REQUEST_HEADERS,
        "expose_headers": _ANSWER_HEADERS,
        "allow_credentials": False,
        "max_age": 600,
    }
