"""The benchmarks as they are run, in sizes that mean nothing: what they call of the farm is still there."""

from pathlib import Path

import pytest

from benchmarks import results_file
from tests.forks import Starter

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]


def test_a_smoke_run_measures_every_arm_whose_packages_are_here(starter: Starter, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = ["-m", "benchmarks", "--quick", "--rounds", "1", "--only", "claims", "--out", str(out)]
    ended = starter.ran(command, folder=tmp_path, cwd=TOP)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    [found] = results_file.read(out)["scenarios"]
    arms = {arm["label"]: arm for arm in found["arms"]}
    # Peers are in the extra `bench`, which the tests do not need.
    assert {name for name, arm in arms.items() if arm["status"] != "measured"} <= {
        name for name in arms if name.startswith("procrastinate")
    }
    assert all("package" in arm["why"] and "[bench]" in arm["why"] for arm in arms.values() if arm["why"])
    assert arms["farm, waiting 1 000, batch 8"]["figures"]["jobs_per_second"]["median"] > 0
