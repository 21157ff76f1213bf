"""A CPU's workers after the first start when there is work for them, and stop with it."""

from pathlib import Path

import pytest

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually
from worker.process.cores import usable_cores

pytestmark = pytest.mark.slow

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
