"""A CPU's workers after the first start when there is work for them, and stop with it."""

from pathlib import Path

import pytest

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually
from worker.process.cores import usable_cores

pytestmark = pytest.mark.slow

LARGE = """
[models.large]
kind = "diffusers"
source = "somebody/of-unknown-size"
"""
MODELS = """
[models.slow]
kind = "simulated"
batch_limit = 1
width = 64
height = 64
num_inference_steps = 1
seconds_per_step = 1.0
seconds_per_step_and_picture = 0.0
"""


@pytest.mark.skipif(usable_cores() < 2, reason="a single core has one worker")
def test_a_backlog_calls_for_the_other_workers_of_a_cpu(tmp_path: Path, starter: Starter) -> None:
    home = Home(tmp_path, starter, FARM_DEVICES="cpu", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    home.path.mkdir()
    (home.path / "models.toml").write_text(MODELS)

    def workers() -> list[str]:
        return [name.split("@")[0] for (name,) in home.rows("SELECT name FROM workers ORDER BY name")]

    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        eventually(lambda: workers() == ["cpu-0"], "the first worker is up")
        home.farm("render", "a star", "-n", "2")
        assert workers() == ["cpu-0"]

        render_id = home.farm("render", "a star", "-n", "400", "--no-wait", "--json").json["id"]
        eventually(lambda: "cpu-1" in workers(), "another worker was called")
        rendered_by = f"SELECT DISTINCT worker FROM jobs WHERE render_id = '{render_id}' AND state = 'done'"
        eventually(lambda: len(home.rows(rendered_by)) > 1, "and renders too")
        home.farm("cancel", render_id)
        up.interrupted()
    assert workers() == []
    home.is_left_in_peace()


@pytest.mark.skipif(usable_cores() < 2, reason="a single core has one worker of one thread")
def test_workers_start_again_with_all_threads_for_a_large_model_and_share_the_cpu_once_it_is_gone(
    tmp_path: Path, starter: Starter
) -> None:
    # How many threads there are is not said: the farm finds it out.
    home = Home(tmp_path, starter, FARM_DEVICES="cpu", OMP_NUM_THREADS="", HF_HUB_OFFLINE="1")
    home.path.mkdir()
    file = home.path / "models.toml"
    file.write_text(MODELS)

    def threads() -> set[str]:
        found = [home.process("worker.process.parent")]
        return {one.environ()["OMP_NUM_THREADS"] for one in found if one is not None and one.is_running()}

    def served() -> str:
        return str(home.rows("SELECT models FROM workers"))

    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        eventually(lambda: "slow" in served(), "a worker is up")
        assert threads() == {"1"}
        before = home.farm("render", "a star", "-n", "2", "--no-wait").out.strip()

        file.write_text(MODELS + LARGE)
        up.says("other models are served: workers start again, after their batches")
        eventually(lambda: threads() == {str(usable_cores())}, "a worker has all threads")
        eventually(lambda: "large" in served(), "and serves what was added")
        home.wait_until_done(before)
        assert home.rows(f"SELECT max(attempt) FROM jobs WHERE render_id = '{before}'") == [(1,)]

        file.write_text(MODELS)
        eventually(lambda: threads() == {"1"}, "a worker has one thread again")
        home.wait_until_done(home.farm("render", "a star", "--no-wait").out.strip())
        up.interrupted()
    home.is_left_in_peace()
