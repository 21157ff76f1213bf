"""What a machine waits for before its workers start: services that answer late are no reason to end."""

import contextlib
import logging
import threading
from collections.abc import Sequence
from functools import partial

from storage.broker.tickets import Tickets
from storage.database import schema
from storage.database.connection import Database
from storage.errors import ObjectStoreOverwrites, ObjectStoreProblem, WorkerNameTaken
from storage.fleet.workers import Workers
from storage.objects.probe import check_first_write_wins
from storage.objects.store import open_objects
from storage.process.service_loop import once_available
from storage.settings import Settings

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


def wait_for_services(settings: Settings, *, stopping: threading.Event) -> None:
    """Return once Redis and the database answer, or the process is to stop.

    Raises SchemaMismatch for tables of another version, and ObjectStoreOverwrites for a store that replaces pictures.
    """
    once_available(partial(_check, settings), doing="start workers", stopping=stopping)


def wait_for_names(names: Sequence[str], settings: Settings, *, run: str, stopping: threading.Event) -> None:
    """Return once no worker of another run has one of these names, or the process is to stop.

    A machine that was switched off leaves its names behind for half a minute. Raises WorkerNameTaken if one of their
    owners beats meanwhile.
    """
    with contextlib.closing(Database(settings.database)) as database:
        workers = Workers(database, run=run)
        for name in names:
            heard_of = workers.last_heard_of(name)
            if heard_of is not None:
                log.warning("workers start when the name is free", extra={"worker": name})
            while heard_of is not None and not stopping.is_set():
                stopping.wait(_PAUSE_SECONDS)
                before, heard_of = heard_of, workers.last_heard_of(name)
                if heard_of is not None and heard_of > before:
                    raise WorkerNameTaken(
                        f"a worker with the name {name} is running already (`farm workers` shows it); stop it, or give "
                        "this machine another FARM_WORKER_NAME"
                    )


def _check(settings: Settings) -> None:
    Tickets(settings).check()
    with contextlib.closing(Database(settings.database)) as database:
        schema.check(database)
    try:
        check_first_write_wins(open_objects(settings))
    except ObjectStoreOverwrites:
        raise
    except ObjectStoreProblem as error:
        # Workers start all the same: each shows in its row what it waits for.
        log.warning("object store not probed yet", extra={"error": error})
