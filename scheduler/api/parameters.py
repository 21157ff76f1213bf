"""Parameters that several routes share."""

import re
from typing import Annotated

from fastapi import Header, Path

from storage.errors import BadSpecification

_LONGEST_WAIT_SECONDS = 60
#: How addresses end whose answers go on and on: HEAD is not answered as GET there.
STREAMED = ("/events", "/pictures.zip")

RenderId = Annotated[str, Path(pattern="^[0-9a-z]{1,32}$", description="Such as `k7m2p9x4tq8z`.")]
JobId = Annotated[str, Path(pattern=r"^[0-9a-z]{1,32}-\d{1,9}$", description="Such as `k7m2p9x4tq8z-000012`.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Your name for this request: however often it is sent, it is accepted once.",
    ),
]


def names_tag(if_none_match: str | None, etag: str) -> bool:
    """Return whether the header names a tag, or any (RFC 9110, 13.1.2: compared weakly)."""
    said = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in said or said == ["*"]


def wait_of(prefer: str | None) -> int | None:
    """Return how many seconds a caller would like to wait (RFC 7240, `wait=N`), within bounds; None: not at all.

    Raises BadSpecification for a wait that is no number.
    """
    match = re.search(r"(?:^|[,;\s])wait(?:\s*=\s*([^,;\s]*))?(?:$|[,;\s])", prefer or "")
    if match is None:
        return None
    said = (match[1] or "").strip('"')
    if said and not re.fullmatch(r"\d{1,6}", said):
        raise BadSpecification(f"Prefer: wait={said[:20]}: the seconds must be a whole number, as in wait=5")
    return min(int(said or _LONGEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
