"""Results of benchmarks: files, what changed between two of them, and the page made from them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import compare, page, results_file
from benchmarks.plots import lines_of
from benchmarks.scenario import Arm, Conditions, Measured, Plot, Round, Target
from benchmarks.verdicts import verdicts
from tests.unit.races import a_run, giving, raced, raising, run

# -- files and what changed between them -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        ((1, 2, 3, 4), (5, 6, 7, 8), "higher", "better"),
        ((1, 2, 3, 4), (5, 6, 7, 8), "lower", "worse"),
        ((5, 6, 7, 8), (1, 2, 3, 4), "higher", "worse"),
        ((5, 6, 7, 8), (1, 2, 3, 4), "lower", "better"),
        ((1, 2, 3, 4), (4, 9, 9, 9), "higher", "within the noise"),
        ((1, 2, 3), (5, 6, 7), "higher", "too few rounds"),
    ],
)
def test_a_figure_has_changed_if_all_rounds_lie_beyond_all_of_the_other_run(
    before: Sequence[float], after: Sequence[float], better: str, verdict: str
) -> None:
    found = list(compare.changes(a_run(raced(*before, better=better)), a_run(raced(*after, better=better))))
    assert {one.what: one.verdict for one in found} == {
        "race: speed, a ÷ b": verdict,
        "race: speed, a": verdict,
        "race: speed, b": "too few rounds" if len(before) < 4 else "within the noise",
    }


def test_what_two_runs_differ_in_is_told() -> None:
    before = a_run()
    after = a_run(
        versions={"python": "3.11.7", "celery": "5.8.0", "dramatiq": "2.2.1"},
        machine=before["machine"] | {"cores": 16},
        dirty=True,
        quick=True,
        load_at_start=[9.0, 0, 0],
    )
    assert list(compare.remarks(before, before)) == []
    assert list(compare.remarks(before, after)) == [
        "another machine: cores 2 → 16; only ratios can be compared",
        "another version: celery 5.7.0 → 5.8.0",
        "another version: dramatiq not installed → 2.2.1",
        "B is a smoke test (--quick): its figures mean nothing",
        "B was measured with changes that are not in its commit abcdef012",
        "B was measured on a busy machine (load 9.0 when it began)",
    ]


def test_two_files_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results_file.write(a_run(raced(1, 2, 3, 4)), tmp_path)
    after = results_file.write(a_run(raced(5, 6, 7, 8)), tmp_path)
    assert (before.name, after.name) == ("2026-11-28-abcdef012.json", "2026-11-28-abcdef012-2.json")
    assert compare.main([str(before), str(after)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "better           race: speed, a ÷ b: 2.5 (1 … 4) → 6.5 (5 … 8)",
        "better           race: speed, a: 2.5 (1 … 4) → 6.5 (5 … 8)",
        "3 figures in both: 2 better, 0 worse beyond the noise",
    ]


def test_results_of_another_schema_version_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = results_file.write(a_run(), tmp_path)
    (old := tmp_path / "old.json").write_text(json.dumps(a_run(schema=0)))
    (none := tmp_path / "none.json").write_text("[]")
    (torn := tmp_path / "torn.json").write_text('{"schema":')
    for file, words in (
        (old, "results of schema version 0; this program reads version 1"),
        (none, "no results of these benchmarks"),
        (torn, "cannot be read"),
        (tmp_path / "gone", "neither a file nor a commit with results"),
    ):
        assert compare.main([str(good), str(file)]) == 2
        assert words in capsys.readouterr().err


def test_a_commit_names_its_newest_results(tmp_path: Path) -> None:
    results_file.write(a_run(), tmp_path)
    for _ in range(10):
        newest = results_file.write(a_run(started="2026-11-29T00:00:00+00:00"), tmp_path)
    assert newest.name == "2026-11-29-abcdef012-10.json"
    results_file.write(a_run(commit="f" * 40, started="2026-11-30T00:00:00+00:00"), tmp_path)
    assert results_file.find("abcdef", tmp_path) == newest
    assert results_file.find("abcdef0123456789", tmp_path) == newest
    with pytest.raises(results_file.UnreadableResults, match="neither a file nor a commit"):
        results_file.find("", tmp_path)


# -- the page ----------------------------------------------------------------------------------------------------


def test_the_page_says_what_is_measured_against_what_and_whether_targets_are_met() -> None:
    found = run(
        Arm("farm", giving([0, 1000, 1200, 1400])),
        Arm("peer", giving([0, 100, 100, 100])),
        Arm("third", giving([]), modules=("no_such_package",)),
        Arm("fourth", raising(RuntimeError("it burns"))),
        targets=[
            Target("5", "speed", "farm", ">=", 12, over="peer"),
            Target("14b", "speed", "farm", "<=", 50),
            Target("6", "speed", "farm", ">=", 2, over="third"),
        ],
    )
    text = page.section([(a_run(found), found)], {"race": ["results/plots/race-1.svg"]})
    assert "* 2026-11-28 10:00 UTC, commit abcdef012: p, 2 cores, 8.0 GiB, Linux 6; load 0.1 at the start" in text
    assert "| 5 | speed, farm ÷ peer | ≥ 12 × | 12 (10 … 14) | met |" in text
    assert "| 14b | speed, farm | ≤ 50 1/s | 1 200 (1 000 … 1 400) | **missed** |" in text
    assert "| 6 | speed, farm ÷ third | ≥ 2 × | the package no_such_package is missing: " in text
    assert "How fast they are. Limit: light. `race`, 3 rounds." in text
    assert "| arm | speed, 1/s (higher is better) |" in text
    assert "| farm | 1 200 (1 000 … 1 400) |" in text
    assert "* speed, farm ÷ peer: 12 (10 … 14)" in text
    assert "third left out: the package no_such_package is missing: " in text
    assert "fourth **failed**: RuntimeError: it burns" in text
    assert "![A race](results/plots/race-1.svg)" in text
    assert [one.number for one in verdicts(found)] == ["5", "14b", "6"]


def test_only_what_is_between_the_markers_is_made_anew_from_the_newest_results(tmp_path: Path) -> None:
    (readme := tmp_path / "README.md").write_text(f"# Before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n")
    folder, said = tmp_path / "results", list[str]()
    results_file.write(a_run(raced(1, 1, 1), started="2026-11-27T10:00:00+00:00", commit="1" * 40), folder)
    results_file.write(a_run(raced(7, 7, 7), started="2026-11-28T10:00:00+00:00", commit="2" * 40), folder)
    results_file.write(a_run(raced(8, 8, 8), started="2026-11-29T10:00:00+00:00", quick=True), folder)
    (folder / "2020-01-01-old.json").write_text(json.dumps(a_run(schema=0)))
    page.rewrite(readme, folder, say=said.append)
    text = readme.read_text()
    assert text.startswith(f"# Before\n\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\n\nafter\n")
    assert "commit 222222222" in text
    assert "| a | 7 (7 … 7) |" in text
    assert "old\n" not in text
    assert "111111111" not in text
    assert any(line.startswith("left out: ") and "schema version 0" in line for line in said)


def test_the_page_in_the_repository_has_its_markers_and_says_what_its_results_say(tmp_path: Path) -> None:
    text = page.PAGE.read_text()
    assert (text.count(page.BEGIN), text.count(page.END)) == (1, 1)
    for file in results_file.FOLDER.glob("*.json"):
        results_file.read(file)
    (empty := tmp_path / "README.md").write_text(f"{page.BEGIN}\n{page.END}")
    page.rewrite(empty, tmp_path / "none", say=lambda _: None)
    assert "Nothing has been measured yet" in empty.read_text()


def test_lines_of_a_plot_follow_a_setting_or_the_last_rounds_series() -> None:
    found = run(
        Arm("farm", giving([0, 5, 6, 7]), at={"waiting": 1000, "batch": 8}),
        Arm("farm", giving([0, 1, 2, 3]), at={"waiting": 10, "batch": 8}),
        Arm("peer", giving([0, 1, 1, 1])),
        plots=[Plot("x", "speed", "waiting")],
    )
    assert lines_of(found, found["plots"][0]) == {"farm, batch 8": [(10, 2, 1, 3), (1000, 6, 5, 7)]}

    @contextmanager
    def curved(_: Conditions) -> Iterator[Round]:
        yield lambda: Measured(figures={"speed": 1}, series={"worker": [(1, 20.0), (2, 21.0)]})

    found = run(Arm("farm", curved), plots=[Plot("x", "speed")])
    assert lines_of(found, found["plots"][0]) == {"farm: worker": [(1, 20.0, 20.0, 20.0), (2, 21.0, 21.0, 21.0)]}
