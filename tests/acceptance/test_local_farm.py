"""A farm on this machine: started when needed, shared, and never left behind, however its starters end."""

import os
import re
import signal
import sqlite3
from contextlib import closing

import httpx
import psutil
import pytest

from tests.acceptance.command import Home
from tests.servers import eventually, free_port, stop

#: Three seconds of work: long enough to be caught in the middle, short enough to be finished.
MANY = ("render", "--model", "simulated", "a red star", "-n", "240")
ONE = ("render", "--model", "simulated", "a red star")

PARTS = ("up --until-unused", "valkey-server", "scheduler --stop-with-parent", "worker.process.supervisor")


def render_of(err: str) -> str:
    """The id of the render whose progress was told."""
    found = re.search(r"^render (\w+): ", err, re.MULTILINE)
    assert found is not None, err
    return found[1]


def killed(home: Home, words: str) -> psutil.Process:
    """The process with these words in its command line, dead."""
    process = home.process(words)
    assert process is not None
    process.kill()
    return process


# -- a farm for one command ------------------------------------------------------------------------------------


def test_two_renders_at_once_in_one_folder_share_a_farm_and_both_finish(home: Home) -> None:
    # Of seconds of work: the second comes before it is finished.
    with home.started(*ONE, "-n", "40", "--steps", "60") as first, home.started(*MANY) as second:
        eventually(lambda: all(map(home.process, PARTS)), "a farm runs")
        ended = [first.ends(), second.ends()]

    assert [render.code for render in ended] == [0, 0], ended
    assert sum("starting a farm" in render.err for render in ended) == 1
    assert home.rows("SELECT done, failed, cancelled FROM renders ORDER BY total") == [(40, 0, 0), (240, 0, 0)]


def test_an_interrupted_render_is_finished_by_the_next_farm_even_if_that_must_wait_for_the_last_to_end(
    home: Home,
) -> None:
    with home.started(*MANY) as render:
        [[render_id]] = eventually(lambda: home.rows("SELECT id FROM renders WHERE done > 0"), "some done")
        # For a farm cannot end without it: the next command comes while this one is still ending.
        workers = home.process("worker.process.supervisor")
        assert workers is not None
        stop(workers.pid)
        interrupted = render.interrupted()
    assert interrupted.code == 130
    assert re.search(
        rf"left render {render_id} with \d+ jobs to go: .*farm up.*farm cancel {render_id}", interrupted.err
    )
    farm = home.process("up --until-unused")
    assert farm is not None
    eventually(lambda: not (home.path / "run" / "farm.json").exists(), "the farm is ending")

    with home.started(*ONE) as later:
        later.says(" unfinished jobs from earlier renders")
        workers.resume()
        next_one = later.ends()

    assert next_one.code == 0, next_one
    assert not farm.is_running()
    assert re.search(r"^\d+ unfinished jobs from earlier renders", next_one.err)
    assert home.rows("SELECT done, total FROM renders ORDER BY total DESC") == [(240, 240), (1, 1)]
    assert home.rows("SELECT DISTINCT attempt FROM jobs") == [(1,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_when_a_render_is_stopped(home: Home, number: signal.Signals) -> None:
    with home.started(*MANY) as render:
        eventually(lambda: home.process("worker.process.parent"), "a worker is starting")
        render.process.send_signal(number)
        render.ends()
        home.is_left_in_peace()

    [(total, done)] = home.rows("SELECT total, done FROM renders")
    assert done < total == 240


def test_a_farm_that_was_killed_leaves_no_process_and_its_render_is_kept_for_the_next(home: Home) -> None:
    with home.started(*MANY) as render:
        eventually(lambda: home.rows("SELECT 1 FROM workers"), "a worker is up")
        killed(home, "up --until-unused")
        ended = render.ends()
    home.is_left_in_peace()

    assert ended.code == 3
    assert re.search(r"^farm: the farm on this machine has stopped.*farm up", ended.err, re.MULTILINE)
    assert home.rows("SELECT count(*) FROM jobs WHERE state IN ('failed', 'cancelled')") == [(0,)]

    next_one = home.farm(*ONE)

    assert "starting a farm" in next_one.err
    assert home.rows("SELECT done, total FROM renders ORDER BY total DESC") == [(240, 240), (1, 1)]


# -- a farm that stays -----------------------------------------------------------------------------------------


def test_a_render_joins_a_farm_that_is_just_starting(home: Home) -> None:
    accepted = home.farm(*ONE, "--no-wait")
    assert "no farm is running on this machine; `farm up`" in accepted.err

    with home.started("up", "--json", afresh=True) as up:
        eventually((home.path / "run" / "farm.lock").exists, "the farm is starting")
        render = home.farm(*ONE)
        home.wait_until_done(accepted.out.strip())
        ended = up.interrupted()

    assert "starting a farm" not in render.err
    assert ended.code == 0
    assert ended.json["pid"] == up.process.pid


def test_a_farm_that_runs_is_used_and_left_running(served: Home) -> None:
    farm = served.process("cli.main up")

    rendered = served.farm(*ONE)

    assert "starting a farm" not in rendered.err
    assert farm is not None
    assert served.process("cli.main up") == farm


def test_a_second_farm_in_the_same_home_is_refused(served: Home) -> None:
    assert re.search(f"a farm already runs in {served.path}; .*FARM_HOME", served.farm("up", code=2).complaint)


@pytest.mark.parametrize("words", ["worker.process.supervisor", "scheduler --stop-with-parent", "valkey-server"])
def test_a_part_of_the_farm_that_is_killed_comes_back(served: Home, words: str) -> None:
    before = killed(served, words)

    eventually(lambda: served.process(words) not in (None, before), f"{words} is back")
    assert served.farm(*ONE).out


def test_a_scheduler_process_removes_what_a_killed_writer_left(served: Home) -> None:
    left = served.path / "objects" / ".new-killed"
    left.write_bytes(b"half a picture")
    os.utime(left, (0, 0))
    killed(served, "scheduler --stop-with-parent")
    eventually(lambda: not left.exists(), "it is removed")


def test_a_scheduler_process_whose_thread_has_failed_ends_and_comes_back(home: Home) -> None:
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        home.farm("schedule", "add", "daily", "--cron", "@daily", "a star", "--model", "simulated")
        before = home.process("scheduler --stop-with-parent")
        with closing(sqlite3.connect(home.path / "farm.db", timeout=30)) as connection, connection:
            # Not a schedule: what is wrong with one of those is its own trouble.
            connection.execute("REPLACE INTO ticking VALUES ('schedules', 'damaged', 'damaged')")
        up.says("a thread failed, stopping thread_name=beat")
        with closing(sqlite3.connect(home.path / "farm.db", timeout=30)) as connection, connection:
            connection.execute("DELETE FROM ticking")
        eventually(lambda: home.process("scheduler --stop-with-parent") not in (None, before), "it is back")
        assert home.farm(*ONE).out
        up.interrupted()


def test_a_farm_whose_workers_can_serve_nothing_ends_and_says_why(home: Home) -> None:
    ended = home.farm("up", code=2, settings={"FARM_SERVE": "shapes"})

    assert "device simulated:0 can render none of the models shapes" in ended.err
    assert ended.err.splitlines()[-1].startswith("farm: the workers cannot start")


# -- a farm elsewhere ------------------------------------------------------------------------------------------


def test_with_addresses_set_nothing_is_started_and_it_is_said_that_nobody_renders(
    home: Home, redis_url: str, sqlite: str
) -> None:
    addresses = {
        "FARM_DATABASE_URL": sqlite,
        "FARM_BROKER_URL": redis_url,
        "FARM_OBJECTS_URL": str(home.folder / "objects"),
    }
    with home.started(*ONE, settings=addresses) as render:
        render.says("no worker runs; `farm-worker` starts one on a machine with a device")
        assert [process.pid for process in home.processes()] == [render.process.pid]
        ended = render.interrupted()

    assert ended.code == 130
    assert "farm-worker" in ended.err
    assert home.farm("status", "--json", settings=addresses).json[0]["state"] == "waiting"


def test_a_farm_shows_itself_in_a_browser_where_it_is_asked_to(home: Home) -> None:
    port = free_port()
    with home.started("up", "--port", str(port)) as up:
        up.says(f"http://127.0.0.1:{port} shows it")

        def page() -> str:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/", headers={"Accept": "text/html"}, timeout=60).text
            except httpx.TransportError:
                return ""

        eventually(lambda: "1 worker" in page(), "the page tells of the worker")
        # Whether the API looked before the first worker was there, or afterwards.
        assert "nothing renders what is submitted" not in up.err
        again = home.farm("up", "--port", str(port), code=2)
        again.complains(f"--port {port}: cannot listen there")
        up.interrupted()
