"""What `farm models check` found to be best for a device, as if a worker had learned it."""

import time
from collections.abc import Callable

from storage.fleet.learned_limits import CallKind, LearnedLimit
from storage.spec.file_marks import marked
from storage.spec.model_checks import ModelChecks


class CheckedLimits:
    """Limits out of the file beside the registry's; nothing without one."""

    def __init__(self, checks: ModelChecks | None, *, clock: Callable[[], float] = time.time) -> None:
        self._checks = checks
        self._clock = clock

    def of(self, kind: CallKind) -> LearnedLimit | None:
        """Return the best number of pictures; None if it was not measured, or of another size, entry or files."""
        check = None if self._checks is None else self._checks.on(kind.model, kind.device_name)
        if check is None or check.pictures is None or marked(check.entry, check.files) != kind.entry:
            return None
        if (check.width, check.height) != (kind.width, kind.height):
            return None
        return LearnedLimit(pictures=check.pictures, settled=True, age=max(0.0, self._clock() - check.at))
