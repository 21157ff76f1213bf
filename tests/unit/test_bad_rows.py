"""All bad rows of a prompt file at once; what separates cells; unknown fields and what was meant."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from scheduler.cli.order_options import with_order_options
from scheduler.intake.files.options import row_of
from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.remarks import LabelRemarks
from scheduler.intake.requests import BadRows
from scheduler.intake.submit import _or_all_bad
from storage.errors import BadSpecification, InvalidInput, NotPermitted


def refused(path: Path, **kind: Any) -> list[str]:
    """The lines of what a whole file is refused with."""
    bad = BadRows(together=True)
    rows: Iterator[Any] = read_manifest(manifest(path, **kind), bad=bad)
    with pytest.raises(BadSpecification) as error:
        list(_or_all_bad(rows, bad))
    return str(error.value).splitlines()


def test_all_bad_rows_are_told_at_once_the_first_twenty_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a", "steps": 0}\n{"prompt": "a", "steps": 1}\n' * 30)

    heading, *lines, more = refused(file)

    assert heading == "30 bad rows:"
    assert [line.split(": ")[0] for line in lines] == [f"{file} line {number}" for number in range(1, 40, 2)]
    assert all("steps: must be greater" in line for line in lines)
    assert more == "… and 10 more"


def test_a_single_bad_row_is_told_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prompt,steps\na,4\nb,none\n")

    [line] = refused(file)

    assert line.startswith(f"{file} line 3: steps: must be a valid integer")


def test_what_ends_a_file_is_told_with_the_bad_rows_before_it(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('prompt,steps\na,0\nb,0\n"c,4\n')

    heading, *lines = refused(file)

    assert heading == "3 bad rows:"
    assert "line 4: not CSV" in lines[2]


def test_a_file_of_nothing_else_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("[]\n" * 30_000)

    heading, *lines = refused(file)

    assert heading == "at least 10,000 bad rows:"
    assert len(lines) == 21


def test_errors_of_one_kind_stay_that_kind() -> None:
    def raised(*errors: InvalidInput) -> type[InvalidInput]:
        bad = BadRows(together=True)
        for error in errors:
            bad.met(error)
        with pytest.raises(InvalidInput) as found:
            bad.refuse()
        return found.type

    assert raised(NotPermitted("a"), NotPermitted("b")) is NotPermitted
    assert raised(NotPermitted("a"), BadSpecification("b")) is BadSpecification
    BadRows(together=True).refuse()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_a_separator_may_be_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("prompt~steps\na, big; red|star~4\n")

    [one] = read_manifest(manifest(file, delimiter="~"))

    assert (one.request.prompt, one.request.num_inference_steps) == ("a, big; red|star", 4)


def test_only_tables_have_separators(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(BadSpecification, match=r"a\.jsonl is no table.*csv, tsv, txt"):
        list(read_manifest(manifest(file, delimiter=";")))


@pytest.mark.parametrize(
    ("said", "says"),
    [("tab", "\t"), ("\\t", "\t"), ("semicolon", ";"), ("~", "~"), ("ab", None), ("a", None), ('"', None), ("", None)],
)
def test_a_separator_is_one_character(said: str, says: str | None) -> None:
    found: list[str | None] = []

    def note(order_options: Any) -> None:
        found.append(order_options.delimiter)

    ended = CliRunner().invoke(click.command()(with_order_options(note)), ["--delimiter", said])

    assert found == ([says] if says else [])
    assert says or "expected one character such as ';', or tab" in ended.output


def test_an_unknown_option_of_a_line_is_told_with_what_was_meant() -> None:
    with pytest.raises(BadSpecification, match="--stepz: not an option of prompt files; did you mean --steps"):
        row_of("line 1", "a cat --stepz 4")
    with pytest.raises(BadSpecification, match="--zzz: not an option of prompt files"):
        row_of("line 1", "a cat --zzz 4")


def test_columns_of_labels_are_no_slips() -> None:
    told = list(LabelRemarks().on(["label", "Label", "lables", "stepz"]))

    assert told == [
        "label: kept as a label",
        "Label: kept as a label",
        "lables: kept as a label; did you mean labels?",
        "stepz: kept as a label; did you mean steps?",
    ]
