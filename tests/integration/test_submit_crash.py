"""A submitter killed at every statement of its submission: what it submitted is there whole, or not at all."""

from pathlib import Path

from sqlalchemy import func, select

from storage.database.connection import Database
from storage.database.tables import jobs, renders
from tests.forks import Starter

#: Forks a submitter for each statement, the n-th of which kills it: before it is sent, then after it was carried out.
#: One that counts no further than its last statement lives, and ends the round. Three chunks of rows.
_JOBS = 2001
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
request = Request.parse({"prompt": "a"})
wanted = [registry.resolve(request, seed=seed) for seed in range(int(sys.argv[1]))]

def submit(moment, n):
    database, left = Database(settings.database), [n]
    def die(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in (moment, "commit"):
        event.listen(database.engine, name, die)
    jobs = Jobs(database)
    jobs.submit(iter(wanted), Submission(owner="ann", priority=Priority.NORMAL), quanta={"tiny": 8})
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


def test_a_submission_is_whole_or_absent_wherever_its_process_is_killed(
    database: Database, redis_url: str, starter: Starter, tmp_path: Path
) -> None:
    environment = {"FARM_DATABASE_URL": database.url, "FARM_BROKER_URL": redis_url}
    told = starter.ran(["-c", _ROUND, str(_JOBS)], folder=tmp_path, env=environment)
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
    assert set(counted.values()) == {_JOBS}
