"""What a call to the API may ask for, and what it comes to."""

from typing import Any

import pytest
from pydantic import ValidationError

from scheduler.api.request_bodies import MAX_JOBS, RenderBody
from storage.errors import BadSpecification


def asked(**fields: Any) -> list[dict[str, Any]]:
    """The requests of a body, as far as they say something."""
    body = RenderBody.model_validate(fields)
    return [one.request.model_dump(exclude_none=True, exclude_unset=True) for one in body.requests()]


def test_one_prompt_is_one_request() -> None:
    assert asked(prompt="a star", steps=5) == [{"prompt": "a star", "num_inference_steps": 5}]


def test_prompts_in_a_list_share_the_other_fields() -> None:
    assert asked(prompt=["a", "b"], guidance=3.0) == [
        {"prompt": "a", "guidance_scale": 3.0},
        {"prompt": "b", "guidance_scale": 3.0},
    ]


def test_lists_in_zip_go_in_step_and_those_in_product_are_combined() -> None:
    found = asked(prompt=["a", "b"], zip={"seed": [1, 2]}, product={"steps": [4, 8], "guidance_scale": [1.0, 5.0]})
    assert [(one["prompt"], one["seed"], one["num_inference_steps"], one["guidance_scale"]) for one in found] == [
        ("a", 1, 4, 1.0),
        ("a", 1, 4, 5.0),
        ("a", 1, 8, 1.0),
        ("a", 1, 8, 5.0),
        ("b", 2, 4, 1.0),
        ("b", 2, 4, 5.0),
        ("b", 2, 8, 1.0),
        ("b", 2, 8, 5.0),
    ]


def test_the_prompt_may_be_in_a_list_of_its_own() -> None:
    assert [one["prompt"] for one in asked(product={"prompt": ["a", "b"]}, n=3)] == ["a", "b"]
    assert RenderBody.model_validate({"product": {"prompt": ["a", "b"]}, "n": 3}).jobs == 6


def test_a_seed_that_is_given_once_is_left_to_whoever_counts() -> None:
    assert asked(prompt=["a", "b"], seed=7) == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "prompt: missing"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", " "]}, "prompt"),
        ({"prompt": "a", "width": "64"}, "width"),
        ({"prompt": "a", "width": 33}, "width"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 10**9}, "n"),
        ({"prompt": "a", "priority": "urgent"}, "priority"),
        ({"prompt": "a", "zip": {"seed": []}}, "zip"),
        ({"prompt": ["a", "b"], "zip": {"seed": [1, 2, 3]}}, "seed has 3 values, prompt has 2"),
        ({"prompt": "a", "zip": {"sede": [1]}}, "sede: not a field"),
        ({"prompt": "a", "product": {"prompt": ["b", "c"]}}, "prompt: given by itself, and in product"),
        ({"prompt": ["a", "b"], "zip": {"prompt": ["c", "d"]}}, "prompt: given by itself, and in zip"),
        ({"prompt": "a", "steps": 3, "product": {"num_inference_steps": [4, 8]}}, "given by itself, and in product"),
        ({"prompt": "a", "seed": 5, "zip": {"seed": [1, 2]}}, "seed: given by itself, and in zip"),
        ({"prompt": "a", "product": {"n": [1]}}, "n: not a field"),
        ({"prompt": "a", "zip": {"seed": [1]}, "product": {"seed": [1]}}, "in both zip and product"),
        ({"prompt": "a", "product": {"seed": list(range(200)), "steps": list(range(1, 101))}}, "20000 pictures"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale"),
        ({"prompt": "a", "surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RenderBody.model_validate(fields)


def test_a_wrong_value_in_a_list_is_named_with_its_request() -> None:
    body = RenderBody.model_validate({"prompt": "a", "product": {"width": [64, 65]}})
    with pytest.raises(BadSpecification, match="request 2: width: "):
        list(body.requests())


def test_a_call_has_a_largest_number_of_pictures() -> None:
    assert RenderBody.model_validate({"prompt": ["a"] * MAX_JOBS}).jobs == MAX_JOBS
    with pytest.raises(ValidationError, match="maximum is 10000"):
        RenderBody.model_validate({"prompt": ["a"] * 5001, "n": 2})
