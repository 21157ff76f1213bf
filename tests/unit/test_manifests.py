import datetime
import json
import math
import re
import resource
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.requests import BadRows, SourcedRequest
from storage.errors import BadSpecification, InvalidInput
from storage.spec.picture import Request


def read(folder: Path, name: str, text: str | bytes) -> list[Request]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [one.request for one in read_manifest(manifest(path))]


def test_every_line_of_a_text_file_is_a_prompt(tmp_path: Path) -> None:
    assert read(tmp_path, "prompts.txt", "a red star\n\n  a blue circle \n") == [
        Request(prompt="a red star"),
        Request(prompt="a blue circle"),
    ]


def test_a_row_of_json_may_set_every_field(tmp_path: Path) -> None:
    row = (
        '{"prompt": "a", "negative_prompt": "b", "model": "tiny", "width": 64, "height": 96, "num_inference_steps": 3,'
        ' "guidance_scale": 2.5, "sampler": "Euler a", "seed": 7}'
    )
    assert read(tmp_path, "prompts.jsonl", row) == [
        Request(
            prompt="a",
            negative_prompt="b",
            model="tiny",
            width=64,
            height=96,
            num_inference_steps=3,
            guidance_scale=2.5,
            sampler="euler a",
            seed=7,
        )
    ]


def test_short_names_of_fields_are_understood(tmp_path: Path) -> None:
    [from_json] = read(tmp_path, "prompts.jsonl", '{"prompt": "a", "negative": "b", "steps": 3, "guidance": 2}')
    [from_csv] = read(tmp_path, "prompts.csv", "prompt,negative,steps,guidance\na,b,3,2\n")
    assert from_json == from_csv == Request(prompt="a", negative_prompt="b", num_inference_steps=3, guidance_scale=2.0)


def test_an_empty_cell_counts_as_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "prompts.csv", "prompt,seed,width\na,3,\nb,,64\n") == [
        Request(prompt="a", seed=3),
        Request(prompt="b", width=64),
    ]


def test_a_cell_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "prompts.csv", 'prompt\n"a ""red"" star,\nlarge"\n') == [
        Request(prompt='a "red" star,\nlarge')
    ]


def test_the_suffix_may_be_written_in_capitals(tmp_path: Path) -> None:
    assert read(tmp_path, "PROMPTS.TXT", "a\n") == [Request(prompt="a")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "prompts.csv"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_files_of_every_editor_are_read(tmp_path: Path, name: str, line_end: str, start: str, last: str) -> None:
    lines = {
        "prompts.txt": ["eins ⭐", "שתיים"],
        "prompts.jsonl": ['{"prompt": "eins ⭐"}', '{"prompt": "שתיים"}'],
        "prompts.csv": ["prompt", "eins ⭐", "שתיים"],
    }[name]
    text = start + "\n".join(lines) + last
    assert read(tmp_path, name, text.replace("\n", line_end)) == [Request(prompt="eins ⭐"), Request(prompt="שתיים")]


def test_separators_that_only_look_like_line_ends_stay_in_the_prompt(tmp_path: Path) -> None:
    assert read(tmp_path, "prompts.txt", "a\u2028b\x0bc\u0085d\n") == [Request(prompt="a\u2028b\x0bc\u0085d")]


def test_a_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\nnot JSON\n')
    requests = read_manifest(manifest(path))
    assert next(requests)._replace(like=None) == SourcedRequest(f"{path} line 1", Request(prompt="a"))
    with pytest.raises(BadSpecification, match="line 2"):
        next(requests)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("prompts.jsonl", '{"prompt": "a"}\n\n{"prompt": 3}\n', "prompts.jsonl line 3: prompt: "),
        ("prompts.jsonl", '{"prompt": "a"', "line 1: not JSON: .* at column 15"),
        ("prompts.jsonl", '"a"', "line 1: expected an object"),
        ("prompts.jsonl", "{}", "line 1: prompt: missing"),
        ("prompts.csv", "prompt,seed\na,1\nb\n", "prompts.csv line 3: expected 2 cells"),
        ("prompts.csv", "prompt\na\nb,c\n", "prompts.csv line 3: expected 1 cell"),
        ("prompts.csv", "prompt,prompt\na,b\n", "prompts.csv line 1: .*prompt"),
        ("prompts.csv", "prompt,\na,b\n", "prompts.csv line [12]: "),
        ("prompts.csv", "text\na\n", "line 1: expected a header with a column named prompt"),
        ("prompts.txt", b"\xff\n", "line 1: not UTF-8 text .byte 0xff after 0"),
        ("prompts.txt", "", "no prompts in this file"),
        ("prompts.csv", "prompt\n", "no prompts in this file"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        read(tmp_path, name, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="missing.txt: No such file"):
        list(read_manifest(manifest(tmp_path / "missing.txt")))
    with pytest.raises(InvalidInput, match=r"prompts.xlsx: not a prompt file; expected \.txt, \.jsonl, \.csv"):
        list(read_manifest(manifest(tmp_path / "prompts.xlsx")))


def test_columns_that_are_no_fields_are_kept_as_labels(tmp_path: Path) -> None:
    row = {"prompt": "a", "custom_id": "cat/1", "topic": "cats", "weight": 0.5, "tags": ["x", {"y": None}]}
    [from_json] = read(tmp_path, "prompts.jsonl", json.dumps(row))
    [from_csv] = read(tmp_path, "prompts.csv", "prompt,topic,custom_id,empty\na,cats,cat/1,\n")

    assert (from_json.custom_id, from_csv.custom_id) == ("cat/1", "cat/1")
    assert from_json.labels == {"topic": "cats", "weight": 0.5, "tags": ["x", {"y": None}]}
    assert from_csv.labels == {"topic": "cats"}


def test_labels_may_be_given_together_too(tmp_path: Path) -> None:
    [request] = read(tmp_path, "prompts.jsonl", '{"prompt": "a", "labels": {"topic": "cats"}, "source": "web"}')
    assert request.labels == {"topic": "cats", "source": "web"}


def test_rows_of_parquet_are_read_with_their_types(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "prompt": ["a", "b"],
            "seed": pyarrow.array([1, None], pyarrow.int64()),
            # As pandas writes whole numbers with gaps.
            "width": [64.0, math.nan],
            "guidance_scale": [5.0, 3.0],
            "taken_on": [datetime.date(2026, 1, 2), None],
            "tags": [["x", "y"], None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "prompts.parquet")

    found = [one.request for one in read_manifest(manifest(tmp_path / "prompts.parquet"))]

    assert found == [
        Request(
            prompt="a", seed=1, width=64, guidance_scale=5.0, labels={"taken_on": "2026-01-02", "tags": ["x", "y"]}
        ),
        Request(prompt="b", guidance_scale=3.0),
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": ["a"]}, "expected a column named prompt; found text"),
        ({"prompt": [3]}, "row 1: prompt: "),
        ({"prompt": ["a", None]}, "row 2: prompt: missing"),
        ({"prompt": ["a"], "image": [b"\x00"]}, "the column image holds bytes"),
        ({"prompt": ["a"], "width": ["64"]}, "row 1: width: "),
    ],
)
def test_parquet_of_the_wrong_columns_is_refused(tmp_path: Path, columns: dict[str, list[object]], says: str) -> None:
    path = tmp_path / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(BadSpecification, match=says):
        list(read_manifest(manifest(path)))


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSpecification, match="prompts.parquet: not Parquet"):
        read(tmp_path, "prompts.parquet", "prompt\na\n")


def test_bad_rows_can_be_left_out_and_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(
        b'{"prompt": "a"}\nnot JSON\n{"prompt": "b", "steps": -1}\n"c"\n{"prompt": "\xff"}\n{"prompt": "d"}\n'
    )
    told: list[str] = []

    bad = BadRows(report=lambda error: told.append(str(error)))
    found = list(read_manifest(manifest(path), bad=bad))

    assert [(one.where, one.request.prompt) for one in found] == [(f"{path} line 1", "a"), (f"{path} line 6", "d")]
    assert [re.search(r"line (\d)", line)[1] for line in told] == ["2", "3", "4", "5"]  # type: ignore[index]
    assert bad.left_out == 4


@pytest.mark.slow
def test_a_line_without_end_is_refused_without_being_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    with path.open("wb") as file:
        file.write(b"a\n")
        file.truncate(300 * 2**20)  # a file with a hole: zeros, and no line end
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    rows = read_manifest(manifest(path))
    assert next(rows).request.prompt == "a"
    with pytest.raises(BadSpecification, match="line 2: longer than 4,000,000 characters"):
        next(rows)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
