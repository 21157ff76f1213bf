"""The arms of rendering scenarios as they are run, in sizes that mean nothing: farms start, and peers answer."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import results_file
from benchmarks.prompts import SIZE
from tests.forks import Starter

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]

#: Asks the loop for two pictures and prints its answer; forked, and so the loop is, too.
_ASK = """
import json, sys
from pathlib import Path
from benchmarks.prompts import GUIDANCE, SIZE, prompts
from benchmarks.users import peer
folder = Path(sys.argv[1])
# Beside other tests; a user has no such setting.
with peer("benchmarks.peers.bare_loop", folder, sys.argv[2], OMP_NUM_THREADS="1") as loop:
    asked = {"prompts": prompts(2), "seeds": [1, 2], "folder": str(folder / "made")}
    print(json.dumps(loop.ask(**asked, steps=1, guidance=GUIDANCE, width=SIZE, height=SIZE)))
"""


def test_a_smoke_run_measures_simulated_devices_files_and_exports(starter: Starter, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = ["-m", "benchmarks", "--quick", "--rounds", "1", "--out", str(out), "--only"]
    ended = starter.ran([*command, "encoding", "export", "idle-device"], folder=tmp_path, cwd=TOP)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    arms = [arm for found in results_file.read(out)["scenarios"] for arm in found["arms"]]
    # One picture is of a package that the tests do not need.
    assert {arm["at"].get("picture") for arm in arms if arm["status"] != "measured"} <= {"photograph"}
    assert len([arm for arm in arms if arm["figures"]]) >= 8


def test_the_bare_loop_saves_the_pictures_that_it_is_asked_for(starter: Starter, tmp_path: Path) -> None:
    model = str(TOP / "worker" / "models" / "shapes")
    told = json.loads(starter.said(_ASK, str(tmp_path), model, folder=tmp_path))
    assert told["seconds"] > 0
    sizes = []
    for file in sorted((tmp_path / "made").iterdir()):
        with Image.open(file) as picture:
            sizes.append(picture.size)
    assert sizes == [(SIZE, SIZE)] * 2


def test_a_smoke_run_opens_pages_beside_a_farm_and_of_a_farm_with_a_past(starter: Starter, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = ["-m", "benchmarks", "--quick", "--rounds", "1", "--out", str(out), "--only", "page"]
    ended = starter.ran(command, folder=tmp_path, cwd=TOP)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    [found] = results_file.read(out)["scenarios"]
    figures = {arm["label"]: arm["figures"] for arm in found["arms"]}
    assert figures["farm, pages 0"].keys() >= {"pictures_per_second", "statements_per_second"}
    assert figures["farm, pages 50"]["looks_per_second"]["median"] > 0
    for database in ("sqlite", "postgresql"):
        assert figures[f"a long past, database {database}"].keys() >= {"first_ms", "front_kb", "filter_ms", "usage_ms"}
