"""A farm on this machine: started when needed, shared, and never left behind, however its starters end."""

import re

import psutil

from tests.acceptance.command import Home

#: Three seconds of work: long enough to be caught in the middle.
MANY = ("render", "--model", "simulated", "a red star", "-n", "240")
ONE = ("render", "--model", "simulated", "a red star")

PARTS = ("up --until-unused", "valkey-server", "scheduler --stop-with-parent", "worker.supervisor")


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
    with home.started(*ONE, "-n", "40") as first, home.started(*ONE, "-n", "80") as second:
        first.says(" of 40")
        assert all(map(home.process, PARTS))
        ended = [first.ends(), second.ends()]

    assert [render.code for render in ended] == [0, 0], ended
    assert sum("starting a farm" in render.err for render in ended) == 1
    assert home.rows("SELECT done, failed, cancelled FROM renders ORDER BY total") == [(40, 0, 0), (80, 0, 0)]


# -- a farm that stays -----------------------------------------------------------------------------------------


def test_a_farm_that_runs_is_used_and_left_running(served: Home) -> None:
    farm = served.process("cli.main up")

    rendered = served.farm(*ONE)

    assert "starting a farm" not in rendered.err
    assert farm is not None
    assert served.process("cli.main up") == farm


def test_a_second_farm_in_the_same_home_is_refused(served: Home) -> None:
    assert re.search(f"a farm runs in {served.path} already.*FARM_HOME", served.farm("up", code=2).complaint)


def test_a_farm_whose_workers_can_serve_nothing_ends_and_says_why(home: Home) -> None:
    ended = home.farm("up", code=2, settings={"FARM_SERVE": "tiny"})

    assert "device simulated:0 can render none of the models tiny" in ended.err
    assert ended.err.splitlines()[-1].startswith("farm: the workers cannot start")


# -- a farm elsewhere ------------------------------------------------------------------------------------------
