"""`farm models check`, as one types it."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.pipelines import random_weights
from tests.servers import eventually

_CHECKS = ["loading", "seed", "batch", "strangers", "prompts", "sizes", "memory", "pace", "precision"]
#: One that is checked in seconds, one that takes a minute, and some that cannot be checked.
_REGISTRY = """
[models.small]
kind = "diffusers"
source = "{folder}"
width = 64
height = 64
num_inference_steps = 2

[models.long]
kind = "diffusers"
source = "{folder}"
width = 256
height = 256
num_inference_steps = 8

[models.gone]
kind = "diffusers"
source = "./gone"

[models.far]
kind = "diffusers"
source = "somebody/far-away"

[models.pretends]
kind = "simulated"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("check")
    random_weights.stable_diffusion(folder / "weights")
    home = Home(folder, starter, FARM_DEVICES="cpu:0", HF_HUB_OFFLINE="1")
    home.path.mkdir()
    (home.path / "models.toml").write_text(_REGISTRY.format(folder=folder / "weights"))
    yield home
    home.is_left_in_peace()


def _file(home: Home) -> Path:
    return home.path / "models.checks.json"


def test_what_is_found_is_shown_kept_and_used_by_workers(home: Home) -> None:
    found = home.farm("models", "check", "small", "--json")
    told = found.json
    assert [one["check"] for one in told["findings"]] == _CHECKS
    assert (told["held"], told["device"], told["file"]) == (True, "cpu:0", str(_file(home)))
    assert "check small: pace (8 of 9)" in found.err
    shown = home.farm("models", "show", "small").out
    assert f"on {told['device_name']}, 64×64: all held" in shown
    assert home.farm("models", "show", "small", "--json").json["checks"][0]["pictures"] == told["pictures"]

    kept = json.loads(_file(home).read_text())
    # A number that nobody learns.
    kept["checks"]["small"][told["device_name"]] |= {"pictures": 3, "remarks": ["it is odd"]}
    _file(home).write_text(json.dumps(kept))
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        assert "it is odd" in home.farm("render", "a star", "-n", "4", "--model", "small").err
        [worker] = home.farm("workers", "--json").json
        assert (worker["batch_limit"], worker["limit_reason"]) == (3, "learned")
        again = home.farm("models", "check", "small")
        assert f"worker {worker['name']} renders on this machine: it goes on" in again.err
        assert "beside a worker" in again.out
        up.interrupted()


def test_what_cannot_be_checked_is_one_clear_line(home: Home) -> None:
    def complains(words: str, alias: str, *options: str, code: int = 2) -> None:
        home.farm("models", "check", alias, *options, code=code).complains(words)

    complains("no model named 'nobody'; registered models: small", "nobody")
    complains("pretends is simulated: there are no weights to check", "pretends")
    complains("there is no .*/gone on this machine; correct `source`", "gone")
    complains("somebody/far-away is not on this machine; `farm models pull far` fetches it", "far")
    for device in ("simulated:0", "gpu"):
        assert "expected cuda:N, mps or cpu" in home.farm("models", "check", "small", "--device", device, code=2).err
    quiet = home.farm("models", "check", "small", "--device", "mps", "--quiet", code=2)
    quiet.complains("there is no mps:0 on this machine; `farm models check --device cpu`")
    simulated = home.farm("models", "check", "small", "-q", code=2, settings={"FARM_DEVICES": "simulated:0"})
    simulated.complains("none of them loads a model; name one with --device")


def test_ctrl_c_says_what_was_found_and_writes_nothing(home: Home) -> None:
    before = _file(home).read_bytes() if _file(home).exists() else None
    with home.started("models", "check", "long") as running:
        running.says("check long: seed (2 of 9)")
        ended = running.interrupted()
    assert ended.code == 130
    assert "loaded in" in ended.out
    assert "interrupted while checking" in ended.err
    assert "Traceback" not in ended.err
    assert (_file(home).read_bytes() if _file(home).exists() else None) == before
    home.is_left_in_peace()


def test_a_process_that_is_killed_is_said_and_writes_nothing(home: Home) -> None:
    before = _file(home).read_bytes() if _file(home).exists() else None

    def process() -> psutil.Process | None:
        return home.process("worker.checks")

    with home.started("models", "check", "long") as running:
        running.says("check long: seed (2 of 9)")
        eventually(process, "it runs")
        found = process()
        assert found is not None
        found.kill()
        ended = running.ends()
    assert ended.code == 3
    assert "the process ended while checking" in ended.err
    assert "nothing was written" in ended.err
    assert (_file(home).read_bytes() if _file(home).exists() else None) == before
