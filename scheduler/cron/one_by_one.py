"""Schedules one by one: what is wrong with one of them stops neither the others nor their process."""

import logging
from collections.abc import Callable, Iterable

from storage.errors import DatabaseBusy, InvalidInput, ServiceProblem
from storage.process.logs import LogThrottle
from storage.renders.schedules import Schedule

log = logging.getLogger(__name__)


def one_by_one(schedules: Iterable[Schedule], work: Callable[[Schedule], object], throttle: LogThrottle) -> None:
    """Do the work for each schedule; where it cannot be done, say so once a minute, and go on.

    Raises DatabaseBusy in the end, if one of them was locked; any other ServiceProblem at once.
    """
    busy: DatabaseBusy | None = None
    for schedule in schedules:
        said = {"schedule": schedule.name, "owner": schedule.owner}
        try:
            work(schedule)
        except DatabaseBusy as error:
            busy = error
        except ServiceProblem:
            raise
        except InvalidInput as error:
            if throttle.passes(schedule.id):
                log.error("schedule cannot be read", extra={**said, "error": error})
        except Exception:
            # Nobody foresaw it, so it belongs to this schedule alone: the others are not to pay for it.
            if throttle.passes(schedule.id):
                log.exception("schedule failed", extra=said)
    if busy is not None:
        raise busy
