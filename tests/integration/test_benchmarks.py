"""The benchmarks as they are run, in sizes that mean nothing: what they call of the farm is still there."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results_file

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]


def test_a_smoke_run_measures_every_arm_whose_packages_are_here(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--only", "claims"]
    ended = subprocess.run([*command, "--out", str(out)], cwd=TOP, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    [found] = results_file.read(out)["scenarios"]
    arms = {arm["label"]: arm for arm in found["arms"]}
    # Peers are in the extra `bench`, which the tests do not need.
    assert {name for name, arm in arms.items() if arm["status"] != "measured"} <= {
        name for name in arms if name.startswith("procrastinate")
    }
    assert all("package" in arm["why"] and "[bench]" in arm["why"] for arm in arms.values() if arm["why"])
    assert arms["farm, waiting 1 000, batch 8"]["figures"]["jobs_per_second"]["median"] > 0
