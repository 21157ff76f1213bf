"""Since when the schedules are looked at without a pause."""

from dataclasses import dataclass

#: A tick that took longer was frozen with its process.
_LONGEST_TICK_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Ticking:
    """From when until when some process has looked at the schedules without a pause, in seconds since 1970."""

    since: float
    until: float

    def then(self, *, began: float, now: float, gap: float) -> "Ticking":
        """Return it after a tick that began at `began`, maybe waited for the database, and now looks.

        More than `gap` seconds without a tick are a pause; so is a clock that was set back by more.
        """
        if now - began > _LONGEST_TICK_SECONDS:
            return Ticking(since=now, until=now)
        if began - self.until > gap or self.until - now > gap:
            return Ticking(since=began, until=now)
        return Ticking(since=min(self.since, began), until=now)
