"""How often pictures that are watched may be looked at: previews take at most a fiftieth of a device's time."""

#: Of the time that calls of the model take.
SHARE = 0.02


class PreviewBudget:
    """An account in seconds: calls of the model pay in, previews are paid from it. So every k-th step has one, with the
    k that their cost asks for, which is measured each time.
    """

    def __init__(self) -> None:
        self._saved = 0.0
        #: What one takes, lately; None: there was none yet.
        self._each: float | None = None

    def called(self, seconds: float, *, watched: int) -> None:
        """Pay in for a call of the model of so many seconds, with so many pictures in it that somebody watches."""
        # Who begins to watch after hours is not owed those hours' previews: one of each at most.
        self._saved = min(self._saved + SHARE * seconds, max(1, watched) * (self._each or 0.0))

    def affords(self, wanted: int) -> int:
        """Return how many previews may be made now, of so many that are wanted.

        One, once all earlier ones are paid; more only if they are paid already.
        """
        if self._saved < 0:
            return 0
        return min(wanted, max(1, int(self._saved / self._each)) if self._each else 1)

    def made(self, seconds: float, pictures: int) -> None:
        """Pay for so many previews, which took so many seconds in all."""
        each = seconds / pictures
        self._each = each if self._each is None else (self._each + each) / 2
        self._saved -= seconds
