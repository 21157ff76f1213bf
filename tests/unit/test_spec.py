import json
import math
from typing import Any

import pytest

from storage.errors import BadSpecification
from storage.spec.explanations import shown
from storage.spec.picture import (
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    VERSION,
    Request,
    Spec,
    check_pixels,
    read_spec,
)
from storage.spec.sampler_names import PLAIN, SAMPLERS

KITTEN = Spec(
    model="tiny",
    prompt="a kitten",
    negative_prompt="blurry",
    width=64,
    height=128,
    num_inference_steps=8,
    guidance_scale=5.0,
    sampler="ddim",
    seed=42,
)


def parse(**fields: Any) -> Request:
    return Request.parse({"prompt": "a cat"} | fields)


def changed(**fields: Any) -> Spec:
    return Spec.model_validate(KITTEN.model_dump() | fields)


# -- what is refused -------------------------------------------------------------------------------------------

WRONG = [
    *[("width", value) for value in (100, 513, 0, -64, 8200, 10**9, "512", True, 512.0, math.nan, [512], b"512")],
    *[("height", value) for value in (4, "64", False)],
    *[("num_inference_steps", value) for value in (0, -1, 10_000, "8", 8.0, True)],
    *[("guidance_scale", value) for value in (math.nan, math.inf, -math.inf, -1, 1001, "7", True)],
    *[("seed", value) for value in (-1, 2**63, 2**64, 1.0, "1", True, math.nan)],
    *[("prompt", value) for value in ("", "   ", "\n\t", "a\0b", "\ud800", None, 5, b"a cat", ["a cat"])],
    *[("negative_prompt", value) for value in ("\0", "\udfff", 5, "x" * (MAX_PROMPT_CHARACTERS + 1))],
    *[("sampler", value) for value in ("", "euler b", "../euler", 3)],
    ("model", 3),
    ("colour", "red"),
    ("", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda part: ascii(part)[:24])
def test_a_wrong_value_is_refused_in_one_line_that_names_its_field(field: str, value: object) -> None:
    with pytest.raises(BadSpecification) as refusal:
        parse(**{field: value})
    message = str(refusal.value)
    assert message.startswith(f"{field or 'specification'}: ")
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("size", [2_000_000, MAX_PROMPT_CHARACTERS + 1])
def test_a_pasted_file_is_no_prompt_and_is_not_repeated_in_the_message(size: int) -> None:
    with pytest.raises(BadSpecification, match=r"^prompt: .*10000") as refusal:
        parse(prompt="x" * size)
    assert len(str(refusal.value)) < 200


def test_a_size_off_the_grid_is_answered_with_the_two_nearest() -> None:
    with pytest.raises(BadSpecification, match=r"^width: .*\b96\b.*\b104\b"):
        parse(width=100)


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("promt", "did you mean prompt"),
        ("controlnet_scale", "did you mean controlnet_conditioning_scale"),
        ("colour", r"known fields: .*\bprompt\b.*\bseed\b"),
    ],
)
def test_an_unknown_field_is_answered_with_the_known_ones(field: str, answer: str) -> None:
    with pytest.raises(BadSpecification, match=f"^{field}: unknown field; {answer}"):
        Request.parse({"prompt": "a cat", field: "red"})


def test_an_unknown_sampler_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadSpecification, match="^sampler: ") as refusal:
        parse(sampler="eular")
    assert all(name in str(refusal.value) for name in PLAIN.values())


def test_a_request_without_a_prompt_is_refused() -> None:
    with pytest.raises(BadSpecification, match="^prompt: missing"):
        Request.parse({"seed": 1})


def test_one_field_under_two_names_is_refused() -> None:
    with pytest.raises(BadSpecification, match="steps"):
        parse(steps=5, num_inference_steps=6)


def test_a_message_gives_a_field_by_the_name_that_the_caller_used() -> None:
    with pytest.raises(BadSpecification, match="^steps: "):
        parse(steps=0)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_number_of_any_length_is_refused_in_one_short_line(digits: int) -> None:
    with pytest.raises(BadSpecification, match="^width: ") as refusal:
        parse(width=10**digits)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(("width", "height"), [(4104, 4096), (8192, 8192)])
def test_a_picture_of_too_many_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(BadSpecification, match=rf"^width, height: {width}×{height} .*16\.8"):
        check_pixels(width, height)


def test_a_picture_of_the_most_pixels_is_accepted() -> None:
    check_pixels(4096, 4096)


# -- what is accepted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "😀 family 👨‍👩‍👧‍👦",
        "חתול שחור",
        "a \u202ereversed\u202c word",
        "  two  spaces, kept  ",
        "line\r\nline\ttab \x1b[31mred",
        "e\u0301 stays decomposed, \u00e9 composed",
        "x" * MAX_PROMPT_CHARACTERS,
    ],
    ids=ascii,
)
def test_a_prompt_is_kept_exactly(prompt: str) -> None:
    assert parse(prompt=prompt).prompt == prompt
    assert read_spec(changed(prompt=prompt).canonical()).prompt == prompt


def test_the_largest_and_smallest_values_are_accepted() -> None:
    request = parse(width=8, height=8192, steps=1000, guidance=0, seed=MAX_SEED)
    assert (request.width, request.height, request.num_inference_steps) == (8, 8192, 1000)
    assert (request.guidance_scale, request.seed) == (0.0, 2**63 - 1)


def test_a_field_left_out_or_null_is_left_to_the_model() -> None:
    assert parse(width=None, seed=None) == parse()
    assert parse().model_dump(exclude_none=True) == {"prompt": "a cat"}


def test_the_short_names_mean_the_long_ones() -> None:
    assert parse(steps=8, guidance=5, negative="blurry") == parse(
        num_inference_steps=8, guidance_scale=5.0, negative_prompt="blurry"
    )


def test_an_empty_negative_prompt_is_one_not_a_default() -> None:
    assert parse(negative="").negative_prompt == ""


@pytest.mark.parametrize("written", ["Euler A", "euler a", " EULER A "])
def test_a_sampler_is_known_in_any_case(written: str) -> None:
    assert parse(sampler=written).sampler == "euler a"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_known_by_the_name_that_messages_show(name: str) -> None:
    assert parse(sampler=SAMPLERS[name]).sampler == name


# -- text cells, as in CSV -------------------------------------------------------------------------------------


def test_text_cells_become_what_typed_fields_would_be() -> None:
    cells = {"prompt": "a cat", "width": "512", "steps": "8", "guidance": "7.5", "seed": "42", "sampler": "DDIM"}
    assert Request.parse_strings(cells) == parse(width=512, steps=8, guidance=7.5, seed=42, sampler="ddim")


def test_an_empty_cell_counts_as_left_out() -> None:
    assert Request.parse_strings({"prompt": "a cat", "width": "", "negative": ""}) == parse()


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        ("width", "100"),
        ("width", "5e2"),
        ("width", "wide"),
        ("guidance_scale", "nan"),
        ("guidance_scale", "inf"),
        ("guidance_scale", "7,5"),
        ("seed", "-1"),
        ("seed", str(2**64)),
        ("seed", "9" * 5000),
        ("prompt", " "),
        ("prompt", ""),
        ("colour", "red"),
    ],
    ids=lambda part: part[:12],
)
def test_a_wrong_cell_is_refused_in_one_line_that_names_its_column(field: str, cell: str) -> None:
    with pytest.raises(BadSpecification, match=f"^{field}: ") as refusal:
        Request.parse_strings({"prompt": "a cat"} | {field: cell})
    assert len(str(refusal.value)) < 300


# -- the canonical form ----------------------------------------------------------------------------------------


def test_the_canonical_form_is_this_one() -> None:
    assert KITTEN.canonical() == (
        '{"guidance_scale":5.0,"height":128,"model":"tiny","negative_prompt":"blurry","num_inference_steps":8,'
        '"prompt":"a kitten","sampler":"ddim","seed":42,"version":1,"width":64}'
    )


def test_the_canonical_form_is_sorted_json_with_readable_text() -> None:
    text = changed(prompt='"😀" \\ שלום\n').canonical()
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert "😀" in text
    assert "שלום" in text
    assert "\n" not in text


def test_the_canonical_form_reads_back_as_the_same_specification() -> None:
    for spec in (KITTEN, changed(sampler=None), changed(guidance_scale=1 / 3), changed(seed=MAX_SEED)):
        assert read_spec(spec.canonical()) == spec
        assert read_spec(spec.canonical()).canonical() == spec.canonical()


def test_a_specification_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        KITTEN.seed = 1  # type: ignore[misc]


def test_a_specification_of_another_version_is_refused() -> None:
    with pytest.raises(BadSpecification, match=f"^version: .*{VERSION}.* {VERSION + 1}"):
        read_spec(changed(version=VERSION + 1).canonical())


def test_a_specification_of_another_version_is_refused_as_such_whatever_its_fields() -> None:
    later = KITTEN.model_dump() | {"version": VERSION + 1, "control_nets": ["canny"]}
    with pytest.raises(BadSpecification, match="^version: "):
        read_spec(json.dumps(later))


@pytest.mark.parametrize("text", ["", "nonsense", "{}", "[]", "null", KITTEN.canonical()[:-1]])
def test_what_is_no_specification_is_refused(text: str) -> None:
    with pytest.raises(BadSpecification):
        read_spec(text)


# -- the batch key ---------------------------------------------------------------------------------------------


def test_prompts_and_seeds_may_differ_within_a_batch() -> None:
    assert changed(prompt="a dog", negative_prompt="", seed=7).batch_key() == KITTEN.batch_key()


@pytest.mark.parametrize(
    "difference",
    [
        {"model": "other"},
        {"width": 128},
        {"width": 128, "height": 64},
        {"num_inference_steps": 9},
        {"guidance_scale": 5.5},
        {"guidance_scale": 0.0},
        {"sampler": "euler"},
        {"sampler": None},
    ],
    ids=str,
)
def test_what_one_pipeline_call_shares_may_not_differ_within_a_batch(difference: dict[str, Any]) -> None:
    assert changed(**difference).batch_key() != KITTEN.batch_key()


def test_equal_specifications_have_one_canonical_form_and_one_batch_key() -> None:
    zero, negative_zero = changed(guidance_scale=0.0), changed(guidance_scale=-0.0)
    assert zero == negative_zero
    assert zero.canonical() == negative_zero.canonical()
    assert zero.batch_key() == negative_zero.batch_key()


def test_the_batch_key_is_the_same_in_every_process_and_after_every_upgrade() -> None:
    # Rows keep it: with another key, old and new workers would not see the same batches.
    assert KITTEN.batch_key() == "d4595bc75da6a7f5"


def test_pictures_with_different_loras_are_denoised_together_and_not_called_together() -> None:
    ink, oil = (changed(loras=loras) for loras in ({"ink": 0.5}, {"oil": 1.0}))
    assert ink.loop_key() == oil.loop_key() == KITTEN.loop_key()
    assert len({ink.batch_key(), oil.batch_key(), KITTEN.batch_key()}) == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": True, "b": None}, '{"a": true, "b": null}'),
        ([1, "é"], '[1, "é"]'),
        (None, "null"),
        (False, "false"),
        ("512", "'512'"),
        (0.5, "0.5"),
        pytest.param(10**5000, "a number with thousands of digits", id="digits"),
        pytest.param([10**5000], "a number with thousands of digits", id="digits in a list"),
        ("x" * 100, "'" + "x" * 56 + "…"),
    ],
)
def test_a_value_is_shown_as_it_was_written(value: object, words: str) -> None:
    assert shown(value) == words
