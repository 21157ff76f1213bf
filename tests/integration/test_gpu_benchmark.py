"""`python -m benchmarks.gpu` with tiny models on a CPU: each kind of part runs and gives what the targets need."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forks import WITH_TORCH, Starter

pytestmark = pytest.mark.slow

#: One of each kind, and what other parts build upon. Those of the other models do the same.
_PARTS = (
    *(
        "ceilings",
        "flop",
        "eager",
        "half sdxl",
        "farm sd15",
        "compiled sd15 default",
        "exactness sd15",
        "rows sdxl",
        "decode sdxl",
    ),
    *("slots sd15", "again sd15", "attention sdxl", "memory", "worker", "switch", "encode", "layout sd15", "offload"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> tuple[dict[str, Any], str]:
    """Results and output of a run."""
    file = tmp_path_factory.mktemp("gpu") / "results.json"
    done = starter.ran(
        ["-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(file), "--parts", *_PARTS],
        folder=file.parent,
        env=WITH_TORCH | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    results = json.loads(file.read_text())
    assert done.returncode == 0, [row for row in results["rows"] if "failed" in row] or done.stderr
    return results, done.stdout


def _rows(run: tuple[dict[str, Any], str], part: str, **labels: Any) -> list[dict[str, Any]]:
    return [row for row in run[0]["rows"] if row["part"] == part and labels.items() <= row.items()]


def test_each_part_is_done_and_each_target_finds_its_figure(run: tuple[dict[str, Any], str]) -> None:
    results, output = run
    assert {part["outcome"] for part in results["parts"]} == {"done"}
    unmeasured = {target["what"] for target in results["targets"] if target["value"] is None}
    assert unmeasured == {
        "SDXL: farm ÷ bare loop",
        "SDXL 1024² compiled: share of the matrix-product rate, whole pictures",
    }
    assert {"commit", "dirty", "versions", "machine", "device", "schema"} <= results.keys()
    assert all(part["name"] in output for part in results["parts"])
    assert "tiny models: the figures mean nothing" in output


def test_what_is_compiled_is_compiled_once_for_each_shape(run: tuple[dict[str, Any], str]) -> None:
    # The UNet at two batches and the decoder: called otherwise than by the pipeline, there would be more.
    (row,) = _rows(run, "compiled", what="graphs")
    assert row["compiled"] == 3


def test_the_farm_learns_what_fits_and_loses_no_picture(run: tuple[dict[str, Any], str]) -> None:
    (row,) = _rows(run, "memory")
    assert (row["learned"], row["frugal"], row["stored"]) == (4, False, 32)


def test_pictures_by_slots_are_made_again_from_their_recipes(run: tuple[dict[str, Any], str]) -> None:
    (row,) = _rows(run, "again")
    assert (row["pictures"], row["identical_share"]) == (4, 1.0)
    assert row["furthest_from_the_pipeline"] <= 1
    assert row["changes_of_calls"] > 1


def test_pictures_are_the_same_twice_on_a_cpu(run: tuple[dict[str, Any], str]) -> None:
    single, *half = _rows(run, "exactness", what="pictures")
    assert single["twice_identical"]
    assert single["db_batch_from_alone"] > 60
    assert [row["dtype"] for row in half] == ["bfloat16", "float16"]
    # Neither grey nor equal to the others: a comparison of nothing would pass, too.
    assert all(row["contrast"] > 5 and 20 < row["db_from_float32"] < 100 for row in half)
    assert all(row["twice_identical"] for row in _rows(run, "rows"))


def test_the_attention_kernels_of_a_cpu_are_told_from_those_that_it_lacks(run: tuple[dict[str, Any], str]) -> None:
    measured = {row["how"] for row in _rows(run, "attention") if "failed" not in row}
    assert {"flash", "math"} <= measured
    assert "cudnn" not in measured


def test_the_flop_of_the_real_models_are_those_that_are_known(starter: Starter, tmp_path: Path) -> None:
    rows = {row["model"]: row for row in map(json.loads, starter.said(_COUNT, folder=tmp_path).splitlines())}
    assert rows["sd15"]["unet_tflop"] == pytest.approx(0.803, rel=0.001)
    assert rows["sdxl"]["unet_tflop"] == pytest.approx(6.761, rel=0.001)
    assert rows["kandinsky22"]["unet_tflop"] == pytest.approx(0.856, rel=0.001)
    assert rows["sd15"]["decode_tflop"] == pytest.approx(2.515, rel=0.001)
    assert rows["sdxl"]["decode_tflop"] == pytest.approx(10.47, rel=0.001)


_COUNT = """
import json
from pathlib import Path
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.ceilings import flop
flop(Bench(device="cpu", tiny=False, folder=Path(), rows=[], send=lambda row: print(json.dumps(row)), part="flop"))
"""
