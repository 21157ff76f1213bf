"""Wrong fields are named as the caller's protocol names them."""

import pytest

from scheduler.api.compat.spelling import respelled, spelled
from storage.errors import BadSpecification, NotPermitted

SIZE = {"width": "size", "height": "size", "num_inference_steps": "steps"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("width: must be even", "size: must be even"),
        ("width, height: too many pixels", "size: too many pixels"),
        ("line 3: num_inference_steps: too many", "line 3: steps: too many"),
        ("rows.jsonl line 3: width: must be even", "rows.jsonl line 3: size: must be even"),
        ("prompt: missing", "prompt: missing"),
        ("nothing to render: no width was given", "nothing to render: no width was given"),
        ("the width is wrong", "the width is wrong"),
    ],
)
def test_only_the_name_of_the_field_is_changed(message: str, expected: str) -> None:
    assert respelled(message, SIZE) == expected


def test_an_error_that_names_no_field_passes_unchanged() -> None:
    with pytest.raises(NotPermitted, match="width"), spelled(SIZE):
        raise NotPermitted("width × height is too much")


def test_the_place_of_a_wrong_field_is_kept() -> None:
    with pytest.raises(BadSpecification, match="^line 2: size: must be even$"), spelled(SIZE):
        raise BadSpecification("line 2: width: must be even")
