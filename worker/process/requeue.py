"""Jobs of a worker that died or was stopped go back to the queue at once, not only when their leases expire."""

import logging

from storage.database.connection import Database
from storage.errors import DatabaseProblem
from storage.jobs.jobs import Jobs
from storage.rules.faults import Fault
from storage.settings import read_settings

log = logging.getLogger(__name__)


def requeue_jobs_of(worker: str, *, run: str, because: Fault | None = None) -> None:
    """Requeue the jobs that a worker holds, either because of a fault or because the worker was told to stop.

    Those of a worker of the same name, but of another run of `farm-worker`, are left alone.

    While the database is away, they return when their leases expire instead.
    """
    settings = read_settings()
    database = Database(settings.database)
    jobs = Jobs(database, settings.retry_policy)
    try:
        if because is None:
            returned = jobs.requeue_from_worker(worker=worker, run=run)
        else:
            returned = jobs.recover_from_worker(
                worker=worker, fault=because, message="the process died while rendering", run=run
            )
        if returned:
            log.warning("jobs requeued", extra={"worker": worker, "jobs": returned})
    except DatabaseProblem as error:
        log.warning("the worker's jobs return when their leases expire", extra={"worker": worker, "error": error})
    finally:
        database.close()
