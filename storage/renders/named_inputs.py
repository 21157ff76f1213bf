"""Which inputs rows name: those of jobs, schedules and batches stay stored, however old they are."""

import re
import tempfile
from collections.abc import Collection

from sqlalchemy import select

from storage.database.connection import Database
from storage.database.schedule_tables import schedules
from storage.database.tables import api_batches, api_files, jobs
from storage.errors import NotFound
from storage.objects.inputs import copy_input
from storage.objects.store import ObjectStore

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")
_AT_ONCE = 1000


def named_inputs(database: Database, objects: ObjectStore, *, without: Collection[str] = ()) -> set[str]:
    """Return the references of all inputs that anything names: jobs of every state, schedules, batches.

    It reads every job's specification. A prompt that quotes a reference counts as naming it.

    Args:
        without: renders whose jobs do not count.

    Raises DatabaseProblem, ObjectStoreProblem.
    """
    found = _of_jobs(database, set(without)) | _of_batches(database, without)
    with database.read() as connection:
        orders = connection.execute(select(schedules.c.order)).scalars().all()
    for order in orders:
        of_order = set(_REFERENCE.findall(order))
        found |= of_order
        for reference in of_order:
            # One of them is the schedule's rows, which name inputs in turn.
            found |= _within(objects, reference)
    return found


def _of_jobs(database: Database, without: set[str]) -> set[str]:
    found: set[str] = set()
    statement = select(jobs.c.render_id, jobs.c.spec).where(jobs.c.spec.like("%sha256:%"))
    with database.read() as connection:
        for row in connection.execution_options(yield_per=_AT_ONCE).execute(statement):
            if row.render_id not in without:
                found.update(_REFERENCE.findall(row.spec))
    return found


def _of_batches(database: Database, without: Collection[str]) -> set[str]:
    statement = select(api_batches.c.render_id, api_files.c.object).join(
        api_files, api_files.c.id == api_batches.c.file_id
    )
    with database.read() as connection:
        return {row.object for row in connection.execute(statement) if row.render_id not in without}


def _within(objects: ObjectStore, reference: str) -> set[str]:
    found: set[str] = set()
    with tempfile.TemporaryFile() as file:
        try:
            copy_input(objects, reference, file)
        except NotFound:
            return found  # the schedule says so itself when it is due
        for line in file:
            found.update(_REFERENCE.findall(line.decode(errors="replace")))
    return found
