"""A submitter killed at every statement of its submission: what it submitted is there whole, or not at all."""

import os
import subprocess
import sys

from sqlalchemy import func, select

from storage.database.connection import Database
from storage.database.tables import jobs, renders

#: Forks a submitter for each statement, the n-th of which kills it: before it is sent, then after it was carried out.
#: One that counts no further than its last statement lives, and ends the round.
_ROUND = """
import os, signal, sys
from sqlalchemy import event
from scheduler.intake.submit import publish_tickets
from storage.broker.tickets import Tickets
from storage.jobs.values import Submission
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.spec.registry import parse_registry
from storage.settings import read_settings
from storage.spec.picture import Request
from storage.rules.states import Priority

registry = parse_registry('[models.tiny]\\nkind = "simulated"', where="here")
settings = read_settings()

def submit(moment, n):
    database, left = Database(settings.database), [n]
    def die(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in (moment, "commit"):
        event.listen(database.engine, name, die)
    specs = (registry.resolve(Request.parse({"prompt": "a"}), seed=seed) for seed in range(2500))
    jobs = Jobs(database)
    jobs.submit(specs, Submission(owner="ann", priority=Priority.NORMAL), quanta={"tiny": 8})
    die()
    publish_tickets(jobs, registry, Tickets(settings), ["tiny"])
    die()

killed = 0
for moment in ("before_cursor_execute", "after_cursor_execute"):
    for n in range(1, 100):
        pid = os.fork()
        if pid == 0:
            submit(moment, n)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        killed += 1
print(killed)
"""


def test_a_submission_is_whole_or_absent_wherever_its_process_is_killed(database: Database, redis_url: str) -> None:
    environment = os.environ | {"FARM_DATABASE_URL": database.url, "FARM_BROKER_URL": redis_url}
    told = subprocess.run(
        [sys.executable, "-c", _ROUND], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert told.returncode == 0, told.stderr
    # Three chunks of a thousand, the render before, its total after, the commit, the tickets.
    assert int(told.stdout) >= 16, told.stdout
    with database.read() as connection:
        totals = {row.id: row.total for row in connection.execute(select(renders))}
        counting = select(jobs.c.render_id, func.count().label("n")).group_by(jobs.c.render_id)
        counted = {row.render_id: row.n for row in connection.execute(counting)}
    # Some died after the commit, and two lived.
    assert len(totals) >= 4
    assert totals == counted
    assert set(counted.values()) == {2500}
