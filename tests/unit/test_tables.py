"""One way from bytes to lines, from lines to cells, from cells to fields, whatever wrote the table."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.intake.manifests import manifest, names_inputs, read_manifest
from scheduler.intake.requests import BadRows
from scheduler.intake.sources import opened
from storage.errors import BadSpecification
from storage.settings import Settings
from storage.spec.picture import Request

#: As a spreadsheet has it: names of its own, gaps, and an empty row.
TABLE: list[dict[str, Any]] = [
    {"Prompt": "a red star, large", "Negative prompt": "blurry", "Steps": 4, "cfg_scale": 7.5, "seed": 5, "topic": "x"},
    {"Prompt": 'a "blue" circle', "Negative prompt": None, "Steps": 10, "cfg_scale": 3.0, "seed": None, "topic": None},
    dict.fromkeys(["Prompt", "Negative prompt", "Steps", "cfg_scale", "seed", "topic"]),
    {"Prompt": "grün; 星", "Negative prompt": "a", "Steps": None, "cfg_scale": None, "seed": 2**53 + 1, "topic": "z"},
]
EXPECTED = [
    Request(
        prompt="a red star, large",
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=7.5,
        seed=5,
        labels={"topic": "x"},
    ),
    Request(prompt='a "blue" circle', num_inference_steps=10, guidance_scale=3.0),
    Request(prompt="grün; 星", negative_prompt="a", seed=2**53 + 1, labels={"topic": "z"}),
]


def separated(by: str, encoding: str = "utf-8", decimal: str = ".", table: Sequence[dict[str, Any]] = TABLE) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, [*table[0]], delimiter=by)
    writer.writeheader()
    for row in table:
        writer.writerow(
            {name: str(cell).replace(".", decimal) if type(cell) is float else cell for name, cell in row.items()}
        )
    return file.getvalue().encode(encoding)


def in_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def read(folder: Path, name: str, data: bytes | str) -> list[Request]:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [one.request for one in read_manifest(manifest(path))]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", separated(",")),
        ("a.csv", separated(";")),
        ("a.csv", separated(";", decimal=",")),
        ("a.tsv", separated("\t", decimal=",")),
        ("a.txt", separated("\t", "utf-16", decimal=",")),
        ("a.csv", b"sep=;\r\n" + separated(";")),
        ("a.csv", b",,,\r\n\r\n" + separated(",")),
        ("a.csv", separated(",", "utf-8-sig")),
        ("a.csv", separated("\t", "utf-16")),
        ("a.csv", separated(";", "utf-16-le")),
        ("a.csv", separated(",", "utf-16-be")),
        ("a.csv", separated(",", "utf-32")),
        ("a.tsv", separated("\t")),
        ("a.tsv", separated(";")),
        ("a.txt", separated("\t", "utf-16")),
        ("a.txt", separated(",")),
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in TABLE).encode()),
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in TABLE).encode("utf-16")),
        ("a.ndjson", "".join(json.dumps(row) + "\n" for row in TABLE).encode()),
        ("a.json", json.dumps(TABLE).encode()),
        ("a.json", json.dumps(TABLE, indent=2, ensure_ascii=False).encode("utf-16")),
        ("a.json", "".join(json.dumps(row) + "\n" for row in TABLE).encode()),
        ("a.jsonl", json.dumps(TABLE, indent=1).encode()),
        ("a.txt", json.dumps(TABLE).encode()),
        ("a.parquet", in_parquet(TABLE)),
    ],
)
def test_the_same_table_asks_for_the_same_pictures_whatever_it_is_written_as(
    tmp_path: Path, name: str, data: bytes
) -> None:
    assert read(tmp_path, name, data) == EXPECTED


#: Whatever people write, but what no database takes.
#: What stands for nothing, or for a spreadsheet's own, is refused in tables alone.
_REFUSED = re.compile(r"(?:null|nan|<na>|\\N|none)|[#=].*", re.IGNORECASE | re.DOTALL)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30).filter(
    lambda text: not _REFUSED.fullmatch(text.strip())
)
_ROW = st.fixed_dictionaries(
    {
        "prompt": _TEXT.filter(lambda text: bool(text.strip()) and not _REFUSED.fullmatch(text.strip())),
        "Steps": st.none() | st.integers(1, 1000),
        "CFG scale": st.none() | st.floats(0, 100, width=16),
        "seed": st.none() | st.integers(0, 2**63 - 1),
        "topic": st.none()
        | st.from_regex(r"[a-zäß,;\"'\n\t ]+", fullmatch=True).filter(
            lambda text: bool(text.strip()) and not _REFUSED.fullmatch(text.strip())
        ),
        "score": st.none() | st.integers(-(10**9), 10**9) | st.floats(-1000, 1000, width=32).filter(lambda x: x % 1),
    }
)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(_ROW, min_size=1, max_size=4),
    by=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
def test_any_table_asks_for_the_same_pictures_whatever_it_is_written_as(
    tmp_path: Path, table: list[dict[str, Any]], by: str, encoding: str
) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    found = [
        read(tmp_path, "a.jsonl", lines.encode(encoding)),
        read(tmp_path, "a.json", json.dumps(table).encode(encoding)),
        read(tmp_path, "a.csv", separated(by, encoding, table=table)),
        read(tmp_path, "a.tsv", separated(by, encoding, table=table)),
    ]
    assert all(requests == found[0] for requests in found)
    assert [one.prompt for one in found[0]] == [row["prompt"] for row in table]


@pytest.mark.parametrize(
    "data",
    [
        separated(","),
        separated(";", "utf-16"),
        json.dumps(TABLE, indent=1).encode(),
        "".join(json.dumps(row) + "\n" for row in TABLE).encode(),
        in_parquet(TABLE),
    ],
)
def test_what_comes_from_standard_input_is_known_by_its_first_lines(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    with opened("-", Settings()) as found:
        assert [one.request for one in read_manifest(found)] == EXPECTED


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_empty_rows_and_unnamed_empty_columns_are_passed_over(tmp_path: Path, line_end: str) -> None:
    text = "prompt;seed;;\n;;;\na;3;;\n\n;;\n   ; ;;\nb;4\n"
    assert read(tmp_path, "a.csv", text.replace("\n", line_end)) == [
        Request(prompt="a", seed=3),
        Request(prompt="b", seed=4),
    ]


@pytest.mark.parametrize(
    "column",
    ["Negative prompt", "negative_prompt", "NEGATIVE PROMPT", "negativePrompt", "negative-prompt", " Negative "],
)
def test_a_column_is_the_field_that_it_is_but_for_case_spaces_and_underscores(tmp_path: Path, column: str) -> None:
    expected = [Request(prompt="a", negative_prompt="b")]
    assert read(tmp_path, "a.csv", f"prompt,{column}\na,b\n") == expected
    assert read(tmp_path, "a.jsonl", json.dumps({"prompt": "a", column.strip(): "b"})) == expected
    assert read(tmp_path, "a.parquet", in_parquet([{"prompt": "a", column.strip(): "b"}])) == expected


def test_the_row_numbers_of_pandas_are_no_label(tmp_path: Path) -> None:
    table = in_parquet([{"prompt": "a", "__index_level_0__": 4}, {"prompt": "c", "__index_level_0__": 7}])
    assert read(tmp_path, "a.parquet", table) == [Request(prompt="a"), Request(prompt="c")]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("CFG scale", "7", {"guidance_scale": 7.0}),
        ("cfg_scale", "7.5", {"guidance_scale": 7.5}),
        ("cfgs", "7.5", {"guidance_scale": 7.5}),
        ("sampler_name", "Euler a", {"sampler": "euler a"}),
        ("Sampling steps", "4", {"num_inference_steps": 4}),
        ("Seed", "5.0", {"seed": 5}),
        ("width", "64.0", {"width": 64}),
        ("guess mode", "TRUE", {"guess_mode": True}),
        ("Original size", "[64, 96]", {"original_size": (64, 96)}),
        ("loras", '{"ink": 0.5}', {"loras": {"ink": 0.5}}),
        ("labels", '{"topic": 1}', {"labels": {"topic": 1}}),
        ("score", "0.5", {"labels": {"score": 0.5}}),
        ("zip", "00501", {"labels": {"zip": "00501"}}),
        ("id", "12345678901234567890", {"labels": {"id": "12345678901234567890"}}),
        ("date", "2024-01-31", {"labels": {"date": "2024-01-31"}}),
        ("commit", "1e10", {"labels": {"commit": "1e10"}}),
    ],
)
def test_cells_of_text_say_what_they_say_as_json(
    tmp_path: Path, column: str, cell: str, expected: dict[str, Any]
) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([["prompt", column], ["a", cell]])
    assert read(tmp_path, "a.csv", file.getvalue()) == [Request(prompt="a", **expected)]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", "prompt,\na,\nb,c\n", "a.csv line 1: a column has no name, but line 3 has 'c' in it"),
        ("a.csv", "prompt,Clip skip\na,2\n", "line 1: the column Clip skip may count as the web UI does"),
        ("a.csv", "prompt,seed\na,-1\n", "line 2: seed: must be .* 0; leave it out for a random one"),
        ("a.csv", "prompt,seed\na,1,,x\n", "a.csv line 2: expected 2 cells, found 4"),
        (
            "a.csv",
            "prompt,seed\na cat, large,1\n",
            "line 2: expected 2 cells, found 3; put quotes around a cell that has a",
        ),
        ("a.txt", "кот\nпёс на ковре\n".encode("utf-16-le"), "line 2: not text .* save the file as UTF-8"),
        (
            "a.csv",
            "prompt,Steps,num_inference_steps\n",
            "line 1: the columns Steps and num_inference_steps are both num_",
        ),
        ("a.jsonl", '{"prompt": "a", "steps": 1, "Steps": 1}', "line 1: the columns steps and Steps are both num_"),
        ("a.jsonl", '{"prompt": "a", "seed": 1, "seed": 2}', "line 1: seed: duplicate key"),
        ("a.csv", "prompt,CFG scale\na,high\n", "line 2: CFG scale: must be a valid number"),
        ("a.csv", "prompt,Steps\na,4.5\n", "line 2: Steps: .*'4.5'"),
        ("a.csv", "prompt,seed\na,1.23457E+14\n", "line 2: seed: .*a spreadsheet has rounded it"),
        (
            "a.csv",
            "prompt;control_scale\na;0,5\n",
            "line 2: control_scale: 0,5 may be one number or two; write 0.5, or 0, 5",
        ),
        ("a.csv", "prompt,loras\na,{ink}\n", "line 2: loras: not JSON"),
        ("a.csv", f"prompt,text\na,{'x' * 30_000}\n", "line 2: labels: .*20000 bytes"),
        ("a.parquet", in_parquet([{"prompt": "a", "seed": 1e18}]), "row 1: seed: .*has lost digits"),
        ("a.parquet", in_parquet([{"prompt": "a", "Steps": 4.5}]), "row 1: Steps: must be a valid integer"),
        ("a.json", '[{"prompt": "a"}, "b"]', r"a.json row 2 \(line 1\): expected an object"),
        ("a.json", '[\n{"prompt": "a"},\n{"prompt": 3}]', r"row 2 \(line 3\): prompt: "),
        ("a.json", '[{"prompt": "a"}\n', "line 2: the list does not end"),
        ("a.json", '[{"prompt": "a"},]', "line 1: not JSON"),
        ("a.json", '[{"prompt": "a"} {"prompt": "b"}]', "line 1: expected a comma"),
        ("a.json", '[{"prompt": "a"}]]', "line 1: there is more after the end"),
        ("a.json", "[]", "no prompts in this file"),
        ("a.json", '{"3": {"class_type": "KSampler"}}', "line 1: ComfyUI's node 3: "),
        (
            "a.csv",
            "prompt,negative_prompt\na,NULL\n",
            "line 2: negative_prompt: NULL is how some programs write nothing",
        ),
        ("a.csv", "prompt,seed\n\\N,1\n", r"line 2: prompt: \\N is how some programs"),
        ("a.csv", "prompt,steps\n#REF!,4\n", "line 2: prompt: #REF! is an error of a spreadsheet"),
        ("a.csv", "prompt,steps\n=A1&B1,4\n", "line 2: prompt: =A1&B1 is a formula of a spreadsheet"),
        ("a.csv", 'prompt,labels\na,"{""x"": 1, ""x"": 2}"\n', "line 2: labels: x: duplicate key"),
        ("a.json", '[{"prompt": "a",\n"labels": {"x": 1, "x": 2}}]', "line 1: labels.x: duplicate key"),
        (
            "a.jsonl",
            '{"prompt": "a", "score": ' + "9" * 5000 + "}",
            "line 1: not JSON: a number of thousands of digits",
        ),
        ("a.jsonl", '{"prompt": "a", "score": NaN}', "line 1: labels: must be numbers that JSON has"),
        ("a.csv", "Grün\n".encode("cp1252"), "line 1: not UTF-8 text .* save the file as UTF-8"),
        ("a.txt", "ab\n".encode("utf-16")[:-1], "line 1: not UTF-16 text"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place_in_its_own_words(
    tmp_path: Path, name: str, data: bytes | str, says: str
) -> None:
    with pytest.raises(BadSpecification, match=says):
        read(tmp_path, name, data)


def test_a_list_is_read_as_a_stream_wherever_its_pieces_end(tmp_path: Path) -> None:
    rows = [{"prompt": f"{'x' * (number * 7919 % 9000)} {number}", "seed": number} for number in range(100)]
    assert [one.seed for one in read(tmp_path, "a.json", json.dumps(rows))] == list(range(100))
    endless = tmp_path / "endless.json"
    endless.write_text('[{"prompt": "a"},\n{"prompt": "' + "x" * 5_000_000)
    found = read_manifest(manifest(endless))
    assert next(found).request.prompt == "a"
    with pytest.raises(BadSpecification, match="line 2: a value longer than 4,000,000 characters"):
        next(found)


def test_bad_rows_of_tables_and_lists_can_be_left_out(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "prompt,seed,\na,1,\nb,x,\nc,2,surplus\n\nd,4,\n"),
        ("a.json", '[{"prompt": "a"}, {"prompt": "b", "seed": "x"}, 3, {"prompt": "d"}]'),
    ):
        (tmp_path / name).write_text(text)
        bad = BadRows(report=lambda _: None)
        assert [one.request.prompt for one in read_manifest(manifest(tmp_path / name), bad=bad)] == ["a", "d"]
        assert bad.left_out == 2


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda column: f"{column},prompt\nx,a\n".encode()),
        ("a.csv", lambda column: f"{column},prompt\nx,a\n".encode("utf-16")),
        ("a.jsonl", lambda column: json.dumps({"prompt": "a", column: "x"}).encode()),
        ("a.parquet", lambda column: in_parquet([{"prompt": "a", column: "x"}])),
    ],
)
@pytest.mark.parametrize("column", ["control_images", "Control images", "PROMPT EMBEDS"])
def test_inputs_are_found_however_their_column_is_written(
    tmp_path: Path, name: str, write: Callable[[str], bytes], column: str
) -> None:
    path = tmp_path / name
    path.write_bytes(write(column))
    assert names_inputs(manifest(path))
    path.write_bytes(write("topic"))
    assert not names_inputs(manifest(path))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pyarrow.binary(), b"a"),
        (pyarrow.binary(2), b"ab"),
        (pyarrow.list_(pyarrow.large_binary()), [b"a"]),
        (pyarrow.map_(pyarrow.string(), pyarrow.binary()), [("a", b"b")]),
        # As datasets hold pictures, and the farm's own exports.
        (pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), {"bytes": b"a", "path": "a.png"}),
    ],
)
def test_bytes_however_deep_are_no_label(tmp_path: Path, kind: pyarrow.DataType, value: object) -> None:
    file = io.BytesIO()
    table = pyarrow.table({"prompt": pyarrow.array(["a"]), "image": pyarrow.array([value], kind)})
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(BadSpecification, match=r"a\.parquet: the column image holds bytes.* leave the column out"):
        read(tmp_path, "a.parquet", file.getvalue())


def test_single_precision_is_read_as_it_was_written(tmp_path: Path) -> None:
    columns = {"guidance": [7.1, None], "steps": [4.0, 5.0], "score": [0.1, float("nan")]}
    table = pyarrow.table(
        {"prompt": ["a", "b"], **{name: pyarrow.array(of, "float32") for name, of in columns.items()}}
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    assert read(tmp_path, "a.parquet", file.getvalue()) == [
        Request(prompt="a", guidance_scale=7.1, num_inference_steps=4, labels={"score": 0.1}),
        Request(prompt="b", num_inference_steps=5),
    ]


def test_byte_order_marks_between_joined_files_are_none_of_the_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "\ufeffa\n\ufeffb\n") == [Request(prompt="a"), Request(prompt="b")]
    assert read(tmp_path, "a.csv", "\ufeff\ufeffprompt,steps\na,4\n") == [Request(prompt="a", num_inference_steps=4)]
