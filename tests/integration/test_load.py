"""Many jobs, two workers: `make load JOBS=10000` for the size and the figures, a few hundred in every test run."""

from pathlib import Path

import psutil
import pytest

from storage.rules.states import State
from tests.forks import Starter
from tests.integration.farm import Farm
from tests.servers import eventually

#: So many are the suite's, whose figures nobody reads.
_FEW = 400


def test_every_job_is_rendered_once_and_tickets_stay_within_the_window(
    farm: Farm, request: pytest.FixtureRequest
) -> None:
    n: int = request.config.getoption("--jobs")
    if n > _FEW:
        # Fresh Pythons: forked ones would show the memory of the one that they come from.
        farm.starter = Starter()
    processes = [farm.scheduler(), farm.workers(2)]
    everyone = [p for process in processes for p in (psutil.Process(process.pid), *_below(process.pid))]

    render_id = farm.submit(n)
    most_tickets = 0
    peaks: dict[str, int] = {}

    def finished() -> bool:
        nonlocal most_tickets
        most_tickets = max(most_tickets, sum(farm.tickets.queued("quick").values()) + farm.tickets.in_hand())
        peaks.update({_title(process): _peak_kib(process.pid) for process in everyone})
        return farm.render(render_id).finished

    eventually(finished, "all are rendered", timeout=max(300, n))
    render = farm.render(render_id)
    took = (render.finished_at or 0) - render.created_at
    print(f"\n{n} jobs in {took:.1f} s, {n / took:.0f}/s; most tickets at once: {most_tickets}")
    for title, peak in sorted(peaks.items()):
        print(f"  peak resident {peak / 1024:6.1f} MiB  {title}")
    farm.assert_sound(render_id)
    rows = farm.rows(render_id)
    assert {row.state for row in rows} == {State.DONE}
    assert {row.attempt for row in rows} == {1}
    assert len({row.sha256 for row in rows}) == n
    assert {row.worker for row in rows} == {"simulated-0@here", "simulated-1@here"}
    assert 0 < most_tickets <= farm.settings.ticket_window


def _below(pid: int) -> list[psutil.Process]:
    return list(psutil.Process(pid).children(recursive=True))


def _title(process: psutil.Process) -> str:
    words = [Path(word).name for word in process.cmdline() if word not in ("-m", "-B", "-c")]
    return f"{process.pid} {' '.join(words)[:60]}"


def _peak_kib(pid: int) -> int:
    """The largest resident memory that a process had (VmHWM, proc(5)); 0 where there is no such file."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
