"""Rows that are alike become what they would alone: the same request, specification, refusal and remarks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.intake.custom_ids import CustomIds
from scheduler.intake.files.alike import RowsAlike
from scheduler.intake.files.columns import Row, request_of
from scheduler.intake.kinds import Kinds
from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.remarks import LabelRemarks
from scheduler.intake.requests import SourcedRequest, with_defaults
from scheduler.intake.specify import specify
from scheduler.intake.submit import SpecifiedJobs
from storage.errors import BadSpecification
from storage.jobs.staging import row_of
from storage.spec import other_languages
from storage.spec.picture import MAX_SEED, Request, write_labels
from tests.unit.test_kinds import OTHERS, TOLD_PROMPTS, TOLD_SEEDS

#: Of typed cells.
LABELS: list[Any] = [
    *(None, "stars", "", "a\0b", "\ud800", "é", "x" * 3_000, "\x01" * 3_000, "nan", '"\\', "4"),
    *(4, 4.0, True, 2**70, -(2**63), float("nan"), float("inf"), 1e300, [1], {"a": "\ud800"}),
]
NAMES: list[Any] = [None, "row 1", "", "a\0b", "\ud800", "n" * 200, "n" * 201, 7, "None", "=A1"]
TYPED = st.fixed_dictionaries(
    {"prompt": st.sampled_from(TOLD_PROMPTS) | st.text(max_size=20)},
    optional={
        "seed": st.sampled_from([*TOLD_SEEDS, None, "7"]),
        "custom_id": st.sampled_from(NAMES),
        "Custom ID": st.sampled_from(NAMES),
        "topic": st.sampled_from(LABELS),
        "note \ud800": st.sampled_from(LABELS[:3]),
        "labels": st.sampled_from([None, {"topic": 1}, {"a": 1}, 7]),
        "steps": st.sampled_from([None, 1, 1.0, True, 4.5, 0]),
        "negative_prompt": st.sampled_from([None, "", "blurry", "a\0b", "b" * 3_000]),
        "cfg scale": st.sampled_from([None, 1, 1.0, 0.0, -0.0, float("nan")]),
        "size": st.sampled_from([None, "64x64", "65x64"]),
        "original_size": st.sampled_from([None, [64, 64], [64.0, 64]]),
        "prompt_embeds": st.sampled_from([None, "sha256:" + "0" * 64]),
        "steps_": st.just(4),
    },
)
TEXTS = st.sampled_from(["", " ", "a red star", "nan", "NULL", "#REF!", "=A1", "a\0b", "\ud800", "é", "x" * 10_001])
NUMBERS = st.sampled_from(
    ["", "0", "7", "007", "+7", " 7", "7.0", "1_0", "-1", "٣", "9" * 19, str(MAX_SEED), "4e2", "x"]
)
TOLD = st.fixed_dictionaries(
    {"prompt": TEXTS},
    optional={
        "seed": NUMBERS,
        "custom_id": TEXTS | st.sampled_from(["n" * 200, "n" * 201]),
        "topic": TEXTS | NUMBERS,
        "steps": NUMBERS,
        "guidance": st.sampled_from(["", "7,5", "7.5", "-0.0", "nan"]),
        "negative_prompt": TEXTS,
        "loras": st.sampled_from(["", '{"ink": 0.5}', "{"]),
        "labels": st.sampled_from(["", '{"a": 1}', "{"]),
    },
)


def came_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BadSpecification as error:
        return str(error)


def as_they_are(request: Request | str) -> Any:
    return request if isinstance(request, str) else (repr(request.__dict__), request.model_fields_set)


@settings(deadline=None, max_examples=400)
@given(
    rows=st.lists(
        TYPED.map(lambda cells: (True, cells)) | TOLD.map(lambda cells: (False, cells)), min_size=1, max_size=4
    ),
    order=st.lists(st.integers(0, 3), max_size=8),
    of_a_table=st.booleans(),
    decimal_comma=st.booleans(),
    more=st.data(),
)
def test_a_row_is_read_as_it_would_be_alone(
    rows: list[tuple[bool, dict[str, Any]]], order: list[int], of_a_table: bool, decimal_comma: bool, more: Any
) -> None:
    alike, kinds, apart = RowsAlike(), Kinds(OTHERS), Kinds(OTHERS)
    for number in [*range(len(rows)), *range(len(rows)), *order]:
        typed, cells = rows[number % len(rows)]
        if more.draw(st.booleans()):
            other = more.draw(TYPED if typed else TOLD)
            cells = {name: other.get(name, cell) for name, cell in cells.items()}
        row = Row("line 1", cells, typed=typed, of_a_table=of_a_table, decimal_comma=decimal_comma)
        agrees(alike, kinds, apart, row)


def agrees(alike: RowsAlike, kinds: Kinds, apart: Kinds, row: Row) -> None:
    alone, found = came_of(lambda: request_of(row)), came_of(lambda: alike.request_of(row))
    request, like = (found, None) if isinstance(found, str) else found
    assert as_they_are(request) == as_they_are(alone)
    if isinstance(alone, Request) and isinstance(request, Request):
        seed = 7 if alone.seed is None else alone.seed
        by_itself = came_of(lambda: apart.resolve(alone, seed)[0])
        assert repr(came_of(lambda: kinds.resolve(request, seed, like)[0])) == repr(by_itself)
        assert alone.labels is None or write_labels(alone.labels) == json.dumps(alone.labels, ensure_ascii=False)


def test_rows_alike_are_recognised_and_only_what_is_plain_of_them_is_not_read_again() -> None:
    alike = RowsAlike()
    rows = [Row("", {"prompt": f"star {n}", "seed": n, "custom_id": f"{n}", "topic": n, "steps": 4}) for n in range(3)]
    likes = [alike.request_of(row)[1] for row in rows]
    assert likes[0] is not None
    assert likes == [likes[0]] * 3
    assert alike.request_of(Row("", {**rows[0].cells, "steps": 4.0}))[1] not in likes, "is mended, and told so"
    assert alike.request_of(Row("", {**rows[0].cells, "seed": 4.0}))[1] is None
    assert alike.request_of(Row("", {**rows[0].cells, "topic": [1]}))[1] is None


def test_however_many_likenesses_there_are_few_are_remembered() -> None:
    alike = RowsAlike()
    for number in range(2_500):
        alike.request_of(Row("", {"prompt": "a", "negative_prompt": f"blurry {number}"}))
        alike.request_of(Row("", {"prompt": "a", f"column {number}": 1}))
    alike.request_of(Row("", {"prompt": "a", "negative_prompt": "b" * 5_000}))
    known = [asked for columns in alike._columns.values() if columns is not None for asked in columns.known]
    assert len(known) + len(alike._columns) <= 1_000
    assert max(len(asked[-1]) for asked in known) <= 2_010


@pytest.mark.parametrize("defaults", [{"num_inference_steps": 5, "width": 64}, {"seed": 4}, {"negative_prompt": "x"}])
def test_defaults_are_filled_in_for_rows_that_are_alike_as_for_others(defaults: dict[str, Any]) -> None:
    alike = RowsAlike()
    cells = [{"prompt": f"star {n}", "custom_id": f"{n}", **({"steps": 4} if n % 2 else {})} for n in range(6)]
    read = [SourcedRequest(f"line {n}", *alike.request_of(Row("", one))[:1]) for n, one in enumerate(cells)]
    known = [
        SourcedRequest(f"line {n}", request, None, like)
        for n, one in enumerate(cells)
        for request, like in [alike.request_of(Row("", one))]
    ]
    filled = [*with_defaults(known, defaults)]
    assert [as_they_are(one.request) for one in filled] == [
        as_they_are(one.request) for one in with_defaults(read, defaults)
    ]
    assert len({one.like for one in filled}) == (1 if "seed" in defaults else 2)


def test_a_manifest_is_specified_and_remarked_on_as_its_rows_would_be_one_by_one(tmp_path: Path) -> None:
    prompts = ["a red star", "a red (star:1.2)", "x", "a\u2014b --steps 4", "é" * 90, "word " * 90, "/imagine a star"]
    rows = [
        {"prompt": prompts[n % 7], "custom_id": f"{n}", **({"topic": "stars"} if n % 3 else {"colour": n}), "seed": n}
        for n in range(60)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    jobs = SpecifiedJobs(specify(read_manifest(manifest(tmp_path / "prompts.jsonl")), OTHERS), OTHERS)
    alone = [
        SpecifiedJobs(specify([SourcedRequest("", Request.parse(_with_labels(row)))], OTHERS), OTHERS) for row in rows
    ]
    assert [row_of(job) for job in jobs] == [row_of(job) for one in alone for job in one]
    counted: dict[str, int] = {}
    for one in alone:
        for remark, pictures in one.remarks.items():
            counted[remark] = counted.get(remark, 0) + pictures
    assert dict(jobs.remarks) == counted
    assert list(jobs.remarks)[:1] == list(counted)[:1]


def _with_labels(row: dict[str, Any]) -> dict[str, Any]:
    fields = {name: row[name] for name in ("prompt", "custom_id", "seed")}
    return {**fields, "labels": {name: row[name] for name in row.keys() - fields.keys()}}


@given(prompt=st.sampled_from([str(one) for one in TOLD_PROMPTS if one is not None]) | st.text(max_size=30))
def test_a_prompt_that_is_not_looked_at_closely_has_no_remark(prompt: str) -> None:
    assert other_languages.may_be_remarked(prompt) or not [*other_languages.remarks("prompt", prompt, None)]


@pytest.mark.parametrize(
    "prompt",
    [
        *("a red star (big:1.2)", "a red star ((big))", "a red star [big]", "red star BREAK blue", "red star AND blue"),
        *(
            "a red star <lora:x:1>",
            "/imagine a red star",
            "a red star --steps 4",
            "red star \u2014n 4",
            "{red|blue} star",
        ),
        *("a red __animal__ here", "a red (star)1.4", "a big red star++", "a star\nSteps: 4", "1.2::red star::"),
        *("a {{red}} big star", "a red {prompt} star", "a red &amp; blue star", "a red embedding:star", "   nan   "),
    ],
)
def test_what_is_remarked_on_is_looked_at_closely(prompt: str) -> None:
    assert [*other_languages.remarks("prompt", prompt, None)]
    assert other_languages.may_be_remarked(prompt)


def test_labels_that_were_met_together_are_counted_as_often_as_they_are_met() -> None:
    labels = LabelRemarks()
    told = [remark for names in ["ab", "ba", "ab", "a", "ab"] for remark in labels.noted(names)]
    for remark, pictures in labels.counted:
        told += [remark] * pictures
    assert {remark: told.count(remark) for remark in told} == {"a: kept as a label": 5, "b: kept as a label": 4}


def test_a_name_is_found_again_among_very_many() -> None:
    with CustomIds() as names:
        for number in range(5_000):
            names.take(f"name {number}", f"line {number}")
        for number in (0, 999, 1_000, 4_999):
            with pytest.raises(
                BadSpecification, match=f"duplicate custom_id 'name {number}'; line {number} has it, too"
            ):
                names.take(f"name {number}", "line 9999")
        names.take("another", "line 10000")
