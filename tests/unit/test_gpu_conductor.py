"""The GPU benchmark's conductor: a part that fails, hangs, or ends its process costs its own rows and no other's."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.conductor import Conductor
from benchmarks.gpu.programme import BY_NAME, PARTS, Part
from benchmarks.gpu.table import table
from benchmarks.gpu.targets import judged

#: A performer without torch: part "flop" does as the text says, all others give a row.
_PERFORMER = """
import json, os, sys, time
told = json.loads(sys.stdin.read())
def send(**message):
    print(json.dumps(message), flush=True)
send(device={"name": "none", "kind": "cpu"})
for name in told["parts"]:
    send(begin=name, seconds=min(SECONDS if name == "flop" else 30, told["seconds"]))
    if name == "flop":
        BEHAVIOUR
    send(row={"part": name, "process": os.getpid(), "known": len(told["rows"])})
    send(end=name, seconds=0.1, outcome="done")
"""
_THREE = [BY_NAME[name] for name in ("ceilings", "flop", "encode")]


def _performed(tmp_path: Path, behaviour: str, *, seconds: float = 60, each: float = 30) -> Conductor:
    text = _PERFORMER.replace("BEHAVIOUR", behaviour).replace("SECONDS", str(each))
    conductor = Conductor(
        device="cpu",
        tiny=True,
        seconds=seconds,
        folder=tmp_path,
        save=lambda: None,
        say=lambda _: None,
        command=[sys.executable, "-c", text],
        patience=0.2,
    )
    conductor.run(_THREE)
    return conductor


def _outcomes(conductor: Conductor) -> dict[str, str]:
    return {part["name"]: part["outcome"] for part in conductor.parts}


def test_all_parts_are_performed_by_one_process(tmp_path: Path) -> None:
    conductor = _performed(tmp_path, "pass")
    assert _outcomes(conductor) == {"ceilings": "done", "flop": "done", "encode": "done"}
    assert len({row["process"] for row in conductor.rows}) == 1
    assert conductor.on == {"name": "none", "kind": "cpu"}


@pytest.mark.parametrize(
    ("behaviour", "each", "why"),
    [
        ("time.sleep(600)", 0.3, "ended by force after"),
        (
            "sys.stderr.write('CUDA error: an illegal access\\n'); os._exit(3)",
            30,
            "its process ended with 3: CUDA error",
        ),
    ],
    ids=["hangs", "dies"],
)
def test_after_a_part_that_hangs_or_dies_another_process_goes_on(
    tmp_path: Path, behaviour: str, each: float, why: str
) -> None:
    conductor = _performed(tmp_path, behaviour, each=each)
    assert _outcomes(conductor) == {"ceilings": "done", "flop": "failed", "encode": "done"}
    before, failed, after = conductor.rows
    assert why in failed["failed"]
    assert before["process"] != after["process"]
    # What was measured before is told to the new process: efficiency needs the rate of matrix products.
    assert (before["known"], after["known"]) == (0, 2)


def test_what_no_time_was_left_for_is_said(tmp_path: Path) -> None:
    conductor = _performed(tmp_path, "time.sleep(600)", seconds=2)
    assert _outcomes(conductor) == {"ceilings": "done", "flop": "failed", "encode": "skipped"}
    assert conductor.rows[-1] == {"part": "encode", "skipped": "no time left"}


def test_a_process_that_does_not_start_says_why_in_the_row_of_each_part(tmp_path: Path) -> None:
    conductor = Conductor(
        device="cpu",
        tiny=True,
        seconds=60,
        folder=tmp_path,
        save=lambda: None,
        say=lambda _: None,
        command=[sys.executable, "-c", "import no_such_torch"],
    )
    conductor.run(_THREE)
    assert set(_outcomes(conductor).values()) == {"failed"}
    assert all("No module named 'no_such_torch'" in row["failed"] for row in conductor.rows)


def test_each_part_has_a_name_of_its_own_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BY_NAME) == len(PARTS)
    assert all(part.least <= part.most for part in PARTS)
    part = Part(kind="encode", module="encode", function="encode", needs=("no_such_package", "PIL"))
    assert part.missing() == "not installed: no_such_package"
    # A checkout by itself does not do: recipes name the farm's version.
    monkeypatch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
    assert BY_NAME["encode"].missing() == "not installed: diffusion-farm"


def test_targets_are_judged_and_told() -> None:
    rows: list[dict[str, Any]] = [
        {"part": "eager", "model": "sdxl", "what": "pictures", "batch": 1, "images_per_second": 1.0, "efficiency": 0.3},
        {
            "part": "eager",
            "model": "sdxl",
            "what": "pictures",
            "batch": 8,
            "images_per_second": 2.0,
            "efficiency": 0.61,
        },
        {"part": "farm", "model": "sd15", "farm_over_bare": 0.97, "farm_over_task": None},
        {"part": "exactness", "what": "pictures", "dtype": "bfloat16", "db_batch_from_alone": 44.0},
        {"part": "exactness", "what": "pictures", "dtype": "bfloat16", "db_batch_from_alone": 70.0},
        {"part": "switch", "model": "sdxl", "how": "farm, again", "over_copy": 1.2},
        {"part": "compiled", "model": "sdxl", "mode": "default", "failed": "no compiler"},
    ]
    verdicts = {target["what"]: (target["value"], target["verdict"]) for target in judged(rows)}
    assert verdicts["SDXL 1024² eager: share of the matrix-product rate, whole pictures"] == (0.61, "met")
    assert verdicts["SD 1.5: farm ÷ bare loop"] == (0.97, "missed")
    assert verdicts["SD 1.5: farm ÷ a task per image"] == (None, "not measured")
    # Of two models the one that keeps it worse.
    assert verdicts["a picture in a batch against alone, bfloat16 (dB)"] == (44.0, "missed")
    assert verdicts["model switch ÷ bytes over copy rate"] == (1.2, "met")
    assert verdicts["sdxl: pictures a second at the best batch ÷ at batch 1"] == (2.0, "met")
    run: dict[str, Any] = {
        "commit": None,
        "dirty": False,
        "versions": {},
        "tiny": False,
        "seconds": 1.0,
        "minutes": 8.0,
    }
    told = table(run | {"device": {"name": "H200"}, "rows": rows, "targets": judged(rows), "parts": []})
    assert "failed: no compiler" in told
    assert "missed       SD 1.5: farm ÷ bare loop" in told


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parts", "eager", "egaer"]) == 2
    assert "no part named egaer; --list names them" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["--minutes", "0", "--out", str(tmp_path / "out.json")])
    assert "0 is no number of minutes" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_gpu_the_results_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = tmp_path / "below" / "out.json"
    assert main(["--parts", "ceilings", "--out", str(file)]) == 1
    (row,) = json.loads(file.read_text())["rows"]
    assert "no GPU" in row["failed"]
    assert "--device cpu --tiny" in capsys.readouterr().out
