import pytest

from scheduler.intake.grid import check, multiplied, read_columns
from scheduler.intake.requests import SourcedRequest
from storage.errors import InvalidInput
from storage.spec.picture import Request


def test_each_request_gets_every_combination_and_its_name_the_number() -> None:
    asked = [
        SourcedRequest("line 1", Request(prompt="a", custom_id="x")),
        SourcedRequest("line 2", Request(prompt="b", width=64)),
    ]
    found = list(multiplied(asked, {"steps": [10, 20], "sampler": ["DDIM", "Euler"]}, {"guidance": [3.0]}))

    assert [(one.where, one.request.custom_id) for one in found] == [
        ("line 1", "x-0"),
        ("line 1", "x-1"),
        ("line 2", None),
        ("line 2", None),
    ]
    assert [(one.request.num_inference_steps, one.request.sampler) for one in found] == [
        (10, "ddim"),
        (20, "euler"),
    ] * 2
    assert {one.request.guidance_scale for one in found} == {3.0}
    assert [one.request.width for one in found] == [None, None, 64, 64]


def test_values_win_over_what_a_row_says() -> None:
    asked = [SourcedRequest("line 1", Request(prompt="a", num_inference_steps=5))]
    assert [one.request.num_inference_steps for one in multiplied(asked, {}, {"steps": ["7", 8]})] == [7, 8]


@pytest.mark.parametrize("name", ["steps", "num_inference_steps"])
@pytest.mark.parametrize("place", ["zip", "product"])
def test_a_value_that_a_list_would_replace_is_refused(name: str, place: str) -> None:
    lists: dict[str, dict[str, list[object]]] = {"zip": {}, "product": {}, place: {name: [4, 8]}}
    with pytest.raises(ValueError, match=f"{name}: given by itself, and in {place}"):
        check(lists["zip"], lists["product"], {"num_inference_steps"})
    check(lists["zip"], lists["product"], {"width"})


def test_columns_are_read_from_text() -> None:
    given = ["steps=10, 20", 'prompt=["a, b", "c"]']
    assert read_columns(given, "--product") == {"steps": ["10", "20"], "prompt": ["a, b", "c"]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["steps"], "expected FIELD=VALUE"),
        (["steps="], "expected FIELD=VALUE"),
        (["steps=1", "steps=2"], "duplicate field steps"),
        (["prompt=[1"], "not a JSON list"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(given: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_columns(given, "--zip")


@pytest.mark.parametrize(
    ("in_step", "combined", "says"),
    [
        ({"steps": [1], "width": [64, 128]}, {}, "width has 2 values, steps has 1"),
        ({}, {"stepz": [1]}, "stepz: not a field"),
        ({"steps": [1]}, {"steps": [2]}, "in both zip and product"),
        ({"steps": [1]}, {"num_inference_steps": [2]}, "in both zip and product"),
        ({}, {"steps": [1], "num_inference_steps": [2]}, "product: steps, num_inference_steps name one field twice"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(
    in_step: dict[str, list[object]], combined: dict[str, list[object]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        check(in_step, combined)
