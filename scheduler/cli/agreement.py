"""Say at a process's start where the API and the scheduler process were started with different settings."""

import logging

from storage.access.noted_settings import NotedSettings
from storage.database.connection import Database
from storage.settings import Settings

log = logging.getLogger(__name__)

#: Settings on which both must agree → what happens if they do not.
_SHARED = {
    "webhook_private": "webhooks to private addresses are accepted by one, and not delivered by the other",
}


def disagreements(database: Database, settings: Settings, process: str) -> list[str]:
    """Note what this process is started with, and return a warning for each setting in which another one differs.

    Raises DatabaseProblem.
    """
    noted = NotedSettings(database)
    warnings = []
    for name, trouble in _SHARED.items():
        mine = str(getattr(settings, name)).lower()
        noted.note(process, name, mine)
        for other, theirs in noted.others(process, name, mine).items():
            words = "the API" if other == "api" else f"the {other} process"
            warnings.append(
                f"FARM_{name.upper()}={mine} here, but {words} was last started with {theirs}: {trouble}; "
                "set both alike, and restart the other"
            )
    return warnings


def warn_of_other_settings(database: Database, settings: Settings, process: str) -> None:
    """Log where another process was started with other settings."""
    for warning in disagreements(database, settings, process):
        log.warning(warning)
