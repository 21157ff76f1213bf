"""When a render may be rendered."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RenderTimes:
    """When a render may be rendered: not before a moment, and only within the hours of a window."""

    #: Seconds since 1970.
    not_before: float | None = None
    #: Such as 01:00-06:00.
    window: str | None = None
    #: Of the window, and of the words about both.
    timezone: str = "UTC"

    @classmethod
    def of(cls, row: Any) -> "RenderTimes | None":
        """Return the times in a render's row; None if it may be rendered at any time."""
        if row.timezone is None:
            return None
        return cls(not_before=row.not_before, window=row.window, timezone=row.timezone)
