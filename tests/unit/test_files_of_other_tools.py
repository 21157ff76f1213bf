"""A shelf of prompt files as other tools write them, each read as it is meant there, or refused with the line."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.requests import BadRows, SourcedRequest
from storage.errors import BadSpecification
from storage.spec.infotext import infotext
from storage.spec.picture import Spec
from storage.spec.sampler_names import SAMPLERS


def read(folder: Path, text: str | bytes, name: str = "prompts.txt") -> list[SourcedRequest]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_manifest(manifest(path)))


def asked(folder: Path, text: str | bytes, name: str = "prompts.txt") -> list[dict[str, Any]]:
    return [one.request.model_dump(exclude_none=True) for one in read(folder, text, name)]


# -- the web UI ------------------------------------------------------------------------------------------------


def test_lines_of_the_web_uis_script_ask_for_what_their_options_say(tmp_path: Path) -> None:
    text = (
        '--prompt "a cat, large" --negative_prompt "ugly, dark" --steps 4 --cfg_scale 5.5 --sampler_name "Euler a" '
        "--width 64 --height 96 --seed 7 --sd_model shapes\n"
        "--prompt a dog without quotes --steps 3\n"
        "a plain prompt\n"
    )
    assert asked(tmp_path, text) == [
        {
            "prompt": "a cat, large",
            "negative_prompt": "ugly, dark",
            "num_inference_steps": 4,
            "guidance_scale": 5.5,
            "sampler": "euler a",
            "width": 64,
            "height": 96,
            "seed": 7,
            "model": "shapes",
        },
        {"prompt": "a dog without quotes", "num_inference_steps": 3},
        {"prompt": "a plain prompt"},
    ]


def test_numbers_of_pictures_in_the_web_uis_lines_multiply(tmp_path: Path) -> None:
    found = read(tmp_path, "--prompt a --n_iter 2 --batch_size 3\n--prompt b\n")
    assert [one.copies for one in found] == [6, None]


def test_minus_one_is_a_random_seed_where_it_means_that(tmp_path: Path) -> None:
    assert asked(tmp_path, "--prompt a --seed -1\n") == [{"prompt": "a"}]
    assert asked(tmp_path, "a\nSteps: 4, Seed: -1\n") == [{"prompt": "a", "num_inference_steps": 4}]


BLOCK = """a cat, large,
second line
Negative prompt: blurry,
dark
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5, Size: 512x768, Model hash: 0a1b, Model: shapes, Clip skip: 2
"""


def test_a_pasted_block_is_one_picture_with_its_settings(tmp_path: Path) -> None:
    assert asked(
        tmp_path, BLOCK + "\na dog\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Karras, Version: v1.10.1\n"
    ) == [
        {
            "prompt": "a cat, large,\nsecond line",
            "negative_prompt": "blurry,\ndark",
            "num_inference_steps": 20,
            "sampler": "dpm++ 2m karras",
            "guidance_scale": 7.0,
            "seed": 5,
            "width": 512,
            "height": 768,
            "model": "shapes",
            # The web UI counts the layer that is used, from 1.
            "clip_skip": 1,
            "labels": {"Model hash": "0a1b"},
        },
        {"prompt": "a dog", "num_inference_steps": 4, "sampler": "dpm++ 2m karras", "labels": {"Version": "v1.10.1"}},
    ]


@pytest.mark.parametrize("word", ["Prompt:", "Positive prompt:", "POSITIVE PROMPT:"])
def test_blocks_may_name_the_prompt(tmp_path: Path, word: str) -> None:
    assert asked(tmp_path, f"{word} a\nNegative Prompt: b\nSteps: 3\n{word} c\n{word} d\nSteps: 4") == [
        {"prompt": "a", "negative_prompt": "b", "num_inference_steps": 3},
        {"prompt": "c"},
        {"prompt": "d", "num_inference_steps": 4},
    ]


@pytest.mark.parametrize(
    "settings",
    [
        "Seed: 5, Steps: 20, Sampler: Euler a, CFG scale: 7, Size: 64x96",
        "Size: 64x96, Seed: 5, CFG scale: 7, Sampler: Euler a, Steps: 20",
        "steps: 20, sampler: euler a, cfg scale: 7, seed: 5, size: 64x96",
        "Sampler: Euler a, Steps: 20.0, CFG Scale: 7.0, Seed: 5, Size: 64x96",
    ],
)
@pytest.mark.parametrize("negative", ["Negative prompt: blurry\n", ""])
def test_settings_may_stand_in_any_order_and_case(tmp_path: Path, settings: str, negative: str) -> None:
    [found] = asked(tmp_path, f"a cat\n{negative}{settings}\n")
    assert found.pop("negative_prompt", None) == ("blurry" if negative else None)
    assert found == {
        "prompt": "a cat",
        "num_inference_steps": 20,
        "sampler": "euler a",
        "guidance_scale": 7.0,
        "seed": 5,
        "width": 64,
        "height": 96,
    }


@pytest.mark.parametrize("line", ["seed: 5", "CFG scale: 7.5, Seed: 5", "Size: 64x64"])
def test_settings_on_lines_of_their_own_are_no_prompts(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadSpecification, match="line 2: settings must stand on one line"):
        asked(tmp_path, f"a cat\n{line}\n")


def test_words_before_a_colon_are_drawn(tmp_path: Path) -> None:
    lines = ["Model: a woman, posing", "Size: huge", "a cat: the movie", "Sampler: many cakes, Steps: stairs"]
    assert asked(tmp_path, "\n".join(lines)) == [{"prompt": line} for line in lines]


@pytest.mark.parametrize(
    ("name", "start", "says"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00", "a workbook or an archive"),
        ("a.txt", b"PK\x03\x04\x14\x00", "a workbook or an archive"),
        ("a.jsonl", b"%PDF-1.7", "a PDF"),
        ("a.txt", b"{\\rtf1\\ansi a cat}", "rich text"),
        ("a.txt", b"<!DOCTYPE html><p>a cat", "a page"),
        ("a.txt", b"{'prompt': 'a cat'}", "with double quotes"),
        ("a.txt", b"- prompt: a cat\n  steps: 4\n", "YAML"),
        ("a.txt", b"prompts:\n  - a cat\n", "YAML"),
    ],
)
def test_a_file_of_another_kind_is_not_drawn(tmp_path: Path, name: str, start: bytes, says: str) -> None:
    with pytest.raises(BadSpecification, match=f"{name} line 1: looks like .*{says}"):
        asked(tmp_path, start, name)


def test_blocks_without_settings_end_with_an_empty_line(tmp_path: Path) -> None:
    assert asked(tmp_path, "a\nNegative prompt: b\n\nc\nNegative prompt:\n") == [
        {"prompt": "a", "negative_prompt": "b"},
        {"prompt": "c"},
    ]


@pytest.mark.parametrize("sampler", [None, *SAMPLERS])
def test_the_settings_that_the_farm_writes_into_a_picture_ask_for_that_picture(
    tmp_path: Path, sampler: str | None
) -> None:
    spec = Spec(
        model="shapes",
        prompt="a star",
        negative_prompt="a circle",
        width=64,
        height=128,
        num_inference_steps=12,
        guidance_scale=4.5,
        sampler=sampler,
        seed=123456789,
    )
    [found] = asked(tmp_path, infotext(spec, {"farm": "0.1"}))
    found.pop("labels")
    assert found == {name: value for name, value in spec.fields().items() if name != "version" and value is not None}


def test_what_the_farm_writes_of_loras_brackets_and_layers_is_read_back(tmp_path: Path) -> None:
    spec = Spec(
        model="shapes",
        prompt="a (star) [red]",
        negative_prompt="",
        width=64,
        height=64,
        num_inference_steps=12,
        guidance_scale=5.0,
        sampler="ddim",
        eta=0.5,
        seed=1,
        clip_skip=2,
        loras={"ink": 0.5},
    )
    [found] = asked(tmp_path, infotext(spec, {"farm": "0.1"}))
    found.pop("labels")
    assert found == {
        name: value for name, value in spec.fields().items() if name != "version" and value not in (None, "")
    }


@pytest.mark.parametrize("text", ["{}\nSteps: 4\n", '--prompt "{}" --steps 4\n'])
def test_prompts_of_the_web_ui_are_read_in_its_language(tmp_path: Path, text: str) -> None:
    assert asked(tmp_path, text.format("a (red:1.3) star <lora:Ink:0.8>")) == [
        {"prompt": "a (red:1.3) star", "prompt_weighting": "webui", "loras": {"ink": 0.8}, "num_inference_steps": 4}
    ]
    for prompt in ("a [red:blue:0.5] star", "a AND b"):
        [row] = asked(tmp_path, text.format(prompt))
        assert (row["prompt"], row["prompt_weighting"]) == (prompt, "webui")
    with pytest.raises(BadSpecification, match="line 1: prompt: .*is not a number"):
        read(tmp_path, text.format("a (red:1.2.3) star"))


# -- sd-scripts ------------------------------------------------------------------------------------------------


def test_sample_prompts_of_trainers_are_read_with_options_and_comments(tmp_path: Path) -> None:
    text = (
        "# sample prompts\n"
        "a cat, sitting --n blurry, dark --w 512 --h 256 --d 1 --l 7.5 --s 28 --ss k_euler_a\n"
        "\n"
        "#\n"
        "a dog\n"
    )
    assert asked(tmp_path, text) == [
        {
            "prompt": "a cat, sitting",
            "negative_prompt": "blurry, dark",
            "width": 512,
            "height": 256,
            "seed": 1,
            "guidance_scale": 7.5,
            "num_inference_steps": 28,
            "sampler": "euler a",
        },
        {"prompt": "a dog"},
    ]


def test_sample_prompts_in_json_are_read_by_their_names(tmp_path: Path) -> None:
    text = '[{"prompt": "a", "negative_prompt": "b", "sample_steps": 20, "sample_sampler": "ddim", "seed": 3}]'
    assert asked(tmp_path, text, "sample.json") == [
        {"prompt": "a", "negative_prompt": "b", "num_inference_steps": 20, "sampler": "ddim", "seed": 3}
    ]


# -- what is refused, and what only looks odd -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a cat --ar 16:9 --v 5\n", "line 1: --ar: not an option of prompt files"),
        ("a\n/imagine\nb --stylize 100\n", "line 3: --stylize: not an option"),
        ("--prompt a --tiling true\n", "line 1: --tiling: not an option"),
        ("--prompt a cat's toy\n", "line 1: no closing quotation"),
        ("a --steps\n", "line 1: --steps: a value is missing"),
        ("a --steps many\n", "line 1: steps: .*integer.*'many'"),
        ("a --s 4 --steps 5\n", "line 1: --steps: num_inference_steps is given twice"),
        ("--steps 5\n", "line 1: prompt: missing"),
        ("--prompt a --n_iter 0\n", "line 1: --n_iter: must be a number of pictures"),
        ("a\n#1 in the charts\n", "line 2: begins with #"),
        ("a\nSteps: 20, Hires upscale: 2\n", "line 1: Hires upscale: 2: not supported"),
        (
            "a\nSteps: 20, Sampler: Euler, Schedule type: KL Optimal\n",
            "line 1: Schedule type: KL Optimal is not supported",
        ),
        ("a\nSteps: 20 | Sampler: Euler\n", "line 1: num_inference_steps: .*'20 . Sampler"),
        (
            "a\nSteps: 20, Sampler: Euler,\nSeed: 5, Size: 64x64\nb\nSteps: 3\n",
            "line 3: settings must stand on one line",
        ),
        ("a cat \u2014steps 4\n", "line 1: \u2014steps: a long dash; write --steps"),
        ("a cat \u2013n blurry\n", "line 1: \u2013n: a long dash; write --n"),
        ("a\nSteps: 20, Size: large\n", "line 1: Size: must be WIDTHxHEIGHT"),
        ("a\nSteps: 20, Sampler: DPM++ 3M\n", "line 1: sampler: is not a sampler"),
        ("a\nNegative prompt: b\nc\nNegative prompt: d\n", "line 4: a second 'Negative prompt:'"),
        ("a\n\nb\n\nc\nNegative prompt: d\n", "line 1: several prompts before one 'Negative prompt:'"),
        ("a\n" * 30 + "Steps: 20\n", "line 1: several prompts before one"),
        ("a\nSteps: 20\n\nb\n", "line 4: neither 'Negative prompt:' nor 'Steps:' follows this prompt"),
        ("prompt\na red star, large\n", "line 1: 'prompt' looks like a table's header"),
        ('{"prompt": "a"\n', "line 1: not JSON"),
    ],
)
def test_what_cannot_be_read_as_it_is_meant_is_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadSpecification, match=f"prompts.txt {says}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat -- very nice",
        "state-of-the-art -- or not",
        "an em dash --",
        "steps \u2014 many of them \u2014 of marble",
        "a cat \u2014sitting",
        "{red|blue} star",
        "[red] star",
        "prompting: a lesson",
        "10 steps: a staircase",
        "a cat # with a tail",
        '"quoted" words',
        "semicolons; and, commas",
    ],
)
def test_prompts_that_only_resemble_other_forms_stay_prompts(tmp_path: Path, prompt: str) -> None:
    assert asked(tmp_path, prompt + "\n") == [{"prompt": prompt}]


@pytest.mark.parametrize(
    "text",
    [
        "prompt\tseed\na, b\t3\n",
        "Prompt\tTopic\tSeed\na, b\tx\t3\n".encode("utf-16"),
        'prompt,seed\n"a, b",3\n',
        '{"prompt": "a, b", "seed": 3}\n',
        '[{"prompt": "a, b", "seed": 3}]',
    ],
)
def test_a_text_file_that_holds_a_table_or_json_is_read_as_such(tmp_path: Path, text: str | bytes) -> None:
    [found] = read(tmp_path, text)
    assert (found.request.prompt, found.request.seed) == ("a, b", 3)


def test_bad_lines_with_options_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a --s 4\nb --v 5\n#c\nd\n")
    told: list[str] = []
    found = list(read_manifest(manifest(path), bad=BadRows(report=lambda error: told.append(str(error)))))
    assert [one.request.prompt for one in found] == ["a", "d"]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("text\na cat\n", "line 1: 'text' looks like a table's header"),
        ("caption\r\na cat\r\n", "line 1: 'caption' looks like a table's header"),
        ('prompt = "a cat"\nsteps = 4\n', "line 1: prompt: a setting of TOML or INI"),
        ("[picture]\nsteps=4\n", "line 2: steps: a setting of TOML or INI"),
        ("1. a cat\n2. a dog\n", "line 1: looks like a numbered list"),
        ("1) a cat\n2) a dog\n", "line 1: looks like a numbered list"),
        ("- a cat\n- a dog\n", "line 1: looks like a list of Markdown's"),
        ("\u2022 a cat\n\u2022 a dog\n", "line 1: looks like a list of Markdown's"),
        ('"a cat",\n"a dog"\n', "line 1: looks like a list of a program's"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: looks like a picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "line 1: looks like a picture"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "line 1: looks like a compressed file; unpack it"),
    ],
)
def test_lines_that_would_be_drawn_with_what_is_no_prompt_in_them_are_refused(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(BadSpecification, match=f"prompts.txt {says}"):
        asked(tmp_path, text)


def test_lines_that_only_begin_so_are_drawn(tmp_path: Path) -> None:
    lines = ["1. FC in blue", "- a dash", "x = y, a formula", "[red] star", '"a cat"', "a text, captioned"]
    assert asked(tmp_path, "\n".join(lines)) == [{"prompt": line} for line in lines]


def test_an_option_without_a_value_that_is_not_known_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BadSpecification, match="line 1: --enable_hr: not an option of prompt files"):
        asked(tmp_path, '--prompt "a cat" --enable_hr\n')
    with pytest.raises(BadSpecification, match="line 1: --steps: a value is missing"):
        asked(tmp_path, "a cat --steps\n")
    assert asked(tmp_path, "a cat --n\n") == [{"prompt": "a cat"}]
