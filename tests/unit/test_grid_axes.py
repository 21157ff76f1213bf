"""The axes of a grid: named, or chosen where that is clear; and pictures at their places."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.results.grid_axes import MOST_CELLS, MOST_PICTURES, Grid, arranged
from storage.errors import InvalidInput
from storage.renders.views import JobView
from storage.rules.states import State
from storage.spec.picture import Spec
from tests.contract.renders import KITTEN


def jobs(*rows: Mapping[str, Any]) -> list[JobView]:
    """Finished pictures; what is no field of a specification is a label."""
    return [job(index, row) for index, row in enumerate(rows)]


def job(index: int, row: Mapping[str, Any]) -> JobView:
    fields = {name: value for name, value in row.items() if name in Spec.model_fields}
    labels = {name: value for name, value in row.items() if name not in fields}
    unset = ("worker", "started_at", "finished_at", "batch_id", "object", "sha256", "bytes")
    empty: dict[str, Any] = dict.fromkeys(unset)
    return JobView(
        row_id=index,
        render_id="k7m2",
        index=index,
        spec=Spec.model_validate(KITTEN.model_dump() | fields),
        state=State.DONE,
        attempt=1,
        fault=None,
        error=None,
        labels=labels or None,
        **empty,
    )


def product(**values: Iterable[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{}]
    for name, each in values.items():
        rows = [{**row, name: value} for row in rows for value in each]
    return rows


def titles(grid: Grid) -> tuple[str, str, str]:
    return grid.x.title, grid.y.title, grid.z.title


def arrange(rows: Iterable[Mapping[str, Any]], **named: str) -> Grid:
    return arranged(jobs(*rows), named)


def test_two_fields_that_differ_are_columns_and_rows_short_values_above() -> None:
    grid = arrange(product(sampler=["ddim", "euler a"], num_inference_steps=[20, 10]))
    assert titles(grid) == ("steps", "sampler", "")
    assert grid.x.values == ("10", "20"), "numbers by their size"
    assert grid.y.values == ("DDIM", "Euler a"), "other values as they came"
    assert {place: [one.index for one in some] for place, some in grid.cells.items()} == {
        (1, 0, 0): [0],
        (0, 0, 0): [1],
        (1, 1, 0): [2],
        (0, 1, 0): [3],
    }
    assert (grid.most_in_cell, grid.seeds_differ) == (1, False)


def test_three_fields_are_blocks_too_and_of_more_they_must_be_named() -> None:
    rows = product(num_inference_steps=[1, 2], guidance_scale=[1.0, 7.5], prompt=["a red star", "a blue star"])
    assert titles(arrange(rows)) == ("steps", "guidance", "prompt")
    assert titles(arrange(rows, x="prompt", y="steps")) == ("prompt", "steps", "guidance")

    more = [{**row, "split": split} for row in rows for split in ("train", "test")]
    with pytest.raises(InvalidInput, match="differ in prompt, steps, guidance, split: name two or three of these"):
        arrange(more)
    named = arrange(more, x="steps", y="split")
    assert titles(named) == ("steps", "split", "")
    assert named.within == ("prompt", "guidance_scale")
    assert named.told_apart(named.cells[0, 0, 0][0]) == "prompt a red star, guidance 1"


def test_fields_that_differ_in_step_are_one_axis() -> None:
    rows = [{"num_inference_steps": n, "guidance_scale": g} for n, g in ((10, 5.0), (20, 7.5))]
    grid = arrange([{**row, "sampler": name} for row in rows for name in ("ddim", "heun")])
    assert titles(grid) == ("steps, guidance", "sampler", "") or titles(grid) == ("sampler", "steps, guidance", "")
    axis = grid.x if grid.x.also else grid.y
    assert axis.values == ("10\nguidance 5", "20\nguidance 7.5")


def test_long_values_are_rows_and_the_same_seeds_an_axis_of_their_own() -> None:
    prompts = ["a large red star on a plain blue ground", "a small green circle"]
    assert titles(arrange(product(prompt=prompts, seed=[1, 2, 3]))) == ("seed", "prompt", "")
    assert titles(arrange(product(num_inference_steps=[4, 8], seed=[1, 2]))) == ("steps", "seed", "")


def test_seeds_that_are_no_axis_are_told() -> None:
    by_cell = [{"num_inference_steps": n, "seed": n} for n in (1, 2, 3)]
    assert arrange(by_cell).seeds_differ

    grid = arrange(product(num_inference_steps=[1, 2], sampler=["ddim", "heun"], seed=[7, 8, 9]))
    assert (titles(grid)[2], grid.most_in_cell, grid.within, grid.seeds_differ) == ("", 3, ("seed",), False)
    assert titles(arrange(product(num_inference_steps=[1, 2], seed=[7, 8]), x="steps", z="seed"))[2] == "seed"


def test_the_same_picture_twice_is_told_apart_by_nothing() -> None:
    grid = arrange([{"num_inference_steps": 1}, {"num_inference_steps": 1}, {"num_inference_steps": 2}])
    assert (grid.most_in_cell, grid.within) == (2, ())


def test_width_and_height_are_one_field_and_controls_that_are_not_set_a_value() -> None:
    grid = arrange(
        [{"width": 64, "height": 128}, {"width": 128, "height": 64, "clip_skip": 2}], x="size", y="clip_skip"
    )
    assert grid.x.values == ("64x128", "128x64")
    assert grid.y.values == ("none", "2")
    assert titles(arrange([{"width": 64}, {"width": 128}], x="width"))[0] == "size"


@pytest.mark.parametrize("said", ["steps", "num_inference_steps", "Steps", " steps "])
def test_a_field_is_named_as_in_prompt_files(said: str) -> None:
    assert titles(arrange([{"num_inference_steps": 1}, {"num_inference_steps": 2}], x=said))[0] == "steps"


def test_a_label_is_an_axis_and_hides_no_field() -> None:
    rows = [{"Camera": "left", "steps": "few"}, {"Camera": "right", "steps": "many"}]
    assert titles(arrange(rows, x="Camera")) == ("Camera, steps", "", "")
    # What is called like a short name of a field is a label as it stands there.
    assert arrange([{"split": 1}, {"split": True}]).x.values == ("1", "true")
    both = arrange([{"sampler": "ddim"}, {"sampler": "heun"}], x="sampler")
    assert both.x.values == ("DDIM", "Heun")
    hidden = [job(n, {}) for n in range(2)]
    with_label = [JobView(**{**vars(one), "labels": {"seed": f"s{one.index}"}}) for one in hidden]
    assert arranged(with_label, {"x": "label:seed"}).x.values == ("s0", "s1")


def test_what_cannot_be_an_axis_is_refused_by_name() -> None:
    rows = product(num_inference_steps=[1, 2], split=["train", "test"])
    with pytest.raises(InvalidInput, match="y: no picture has a field or label 'stepps'; did you mean steps?"):
        arrange(rows, y="stepps")
    with pytest.raises(
        InvalidInput, match="x: no picture has a field or label '☆'; those that differ are steps, split"
    ):
        arrange(rows, x="☆")
    with pytest.raises(InvalidInput, match="y: steps is an axis already"):
        arrange(rows, x="steps", y="num_inference_steps")
    with pytest.raises(
        InvalidInput, match="differ in their seeds alone; `farm sheet` shows them, or name the axis seed"
    ):
        arrange([{"seed": 1}, {"seed": 2}])
    with pytest.raises(InvalidInput, match="no picture differs from another one; `farm sheet` shows them"):
        arrange([{"seed": 1}])
    assert titles(arrange([{"seed": 1}, {"seed": 2}], x="seed")) == ("seed", "", "")
    with pytest.raises(InvalidInput, match=f"more than {MOST_PICTURES} pictures"):
        arrange([{"seed": seed} for seed in range(MOST_PICTURES + 1)], x="seed")
    many = [{"seed": seed, "id": f"p{seed % 60}", "num_inference_steps": 1 + seed // 60} for seed in range(960)]
    with pytest.raises(InvalidInput, match="a grid of .* cells .*: name other axes"):
        arrange(many, x="seed", y="id")


values = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-1, 1), st.text(max_size=30))


@pytest.mark.slow
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys("abc", values)), min_size=1, max_size=12), st.data())
def test_every_picture_has_a_place_whatever_its_labels_are(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    known = sorted({name for row in rows for name in row} | {"seed", "prompt"})
    some = data.draw(st.lists(st.sampled_from(known), unique=True, min_size=1, max_size=3))
    grid = arrange([{**row, "seed": seed % 5} for seed, row in enumerate(rows)], **dict(zip("xyz", some, strict=False)))

    assert sorted(one.index for cell in grid.cells.values() for one in cell) == list(range(len(rows)))
    sizes = [len(axis.values) for axis in (grid.x, grid.y, grid.z)]
    assert all(0 <= at < size for place in grid.cells for at, size in zip(place, sizes, strict=True))
    assert sizes[0] * sizes[1] * sizes[2] <= MOST_CELLS


def test_values_that_differ_look_different() -> None:
    grid = arrange(product(guidance_scale=[2.0, 2.00000001, 1e-7], seed=[1]))
    assert grid.x.values == ("1e-07", "2", "2.00000001")
