"""Times as text: RFC 3339 in UTC, to the microsecond."""

from datetime import UTC, datetime
from typing import Annotated, overload

from pydantic import Field

#: As RFC 3339 writes it.
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@overload
def rfc3339(moment: float) -> str: ...
@overload
def rfc3339(moment: None) -> None: ...
@overload
def rfc3339(moment: float | None) -> str | None: ...
def rfc3339(moment: float | None) -> str | None:
    """Return a time in seconds since 1970 as text, such as 2026-01-01T00:00:00.000000Z; None: None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
