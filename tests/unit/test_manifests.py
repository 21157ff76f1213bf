from pathlib import Path

import pytest

from scheduler.manifests import manifest, read_manifest
from storage.errors import BadSpecification, InvalidInput
from storage.spec import Request


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
    assert next(requests) == (f"{path} line 1", Request(prompt="a"))
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
        ("prompts.txt", "", "no prompt in this file"),
        ("prompts.csv", "prompt\n", "no prompt in this file"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        read(tmp_path, name, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="missing.txt: No such file"):
        list(read_manifest(manifest(tmp_path / "missing.txt")))
    with pytest.raises(InvalidInput, match=r"prompts.xlsx: prompt files are \.txt, \.jsonl, \.csv"):
        list(read_manifest(manifest(tmp_path / "prompts.xlsx")))
