"""Rows of a kind that is known become what they would alone: the same specification, refusal and remarks."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.intake.kinds import Kinds, RemarksOfKinds
from scheduler.intake.remarks import remarks_on
from storage.errors import BadSpecification, NotFound
from storage.jobs.staging import row_of
from storage.jobs.values import NewJob
from storage.settings import Settings
from storage.spec.kinds import SpecKind, has_kind
from storage.spec.picture import DISTINCT_SEEDS, MAX_PROMPT_CHARACTERS, MAX_SEED, Request, Spec
from storage.spec.prompt_length import unread
from storage.spec.registry import Registry, parse_registry, read_registry
from tests.examples import examples

SHAPES = read_registry(Settings())
#: Models whose defaults have controls; that of the last makes all of its prompts weighted ones.
OTHERS = parse_registry(
    """
    default = "quick"
    [models.quick]
    kind = "simulated"
    [models.skips]
    kind = "diffusers"
    source = "a/b"
    pipeline = "StableDiffusionXLPipeline"
    negative_prompt = "blurry"
    clip_skip = 1
    eta = 0.5
    [models.weighs]
    kind = "diffusers"
    source = "a/b"
    pipeline = "StableDiffusionPipeline"
    prompt_weighting = "compel"
    """,
    where="here",
)

TOLD_PROMPTS: list[Any] = [
    *("a red star", "x", "", "  ", "a\0b", "\ud800", "nan", "red++", "(red", "{a|b} --steps 4", "é", "😀" * 90),
    *(None, 7, "a" * MAX_PROMPT_CHARACTERS, "a" * (MAX_PROMPT_CHARACTERS + 1), "star " * 80, "★ " * 80),
    *('"prompt":"\\u0000"', '"seed":0', "\\", '"', "\n\t\x7f\u2028", "/imagine"),
]
TOLD_SEEDS: list[Any] = [0, 7, DISTINCT_SEEDS, MAX_SEED, MAX_SEED + 1, -1, True, 1.0]
PROMPTS = st.one_of(st.sampled_from(TOLD_PROMPTS), st.text(max_size=20))
SEEDS = st.sampled_from(TOLD_SEEDS)
#: Whatever may differ between kinds, values that are equal and not the same among them.
FIELDS: dict[str, list[Any]] = {
    "model": [None, "shapes", "quick", "skips", "weighs", "other"],
    "negative_prompt": [None, "", "blurry", "nan", '"prompt":"\\u0000","seed":0', "a\0b", "b" * 3000, "word " * 90],
    "num_inference_steps": [None, 1, 4, True, 1.0, 0],
    "guidance_scale": [None, 1, 1.0, 0.0, -0.0, 5.0, float("nan")],
    "width": [None, 64, 64.0, 65],
    "aspect": [None, "1:1"],
    "sampler": [None, "ddim", "euler"],
    "eta": [None, 0.0, -0.0, 0, 1],
    "loras": [None, {"ink": 0.5}, {"seed": 0.5, "prompt": 1.0}],
    "prompt_weighting": [None, "compel"],
    "prompt_embeds": [None, "sha256:" + "0" * 64],
    "original_size": [None, (64, 64), [64, 64]],
}
ROWS = st.fixed_dictionaries(
    {"prompt": PROMPTS, "seed": SEEDS}, optional={name: st.sampled_from(values) for name, values in FIELDS.items()}
)


def came_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (BadSpecification, NotFound) as error:
        return type(error), str(error)


def requests_of(row: dict[str, Any]) -> list[Request]:
    """A row as it is parsed, if it can be, and as values are put into requests without being looked at."""
    unchecked = Request(prompt="-").model_copy(update={"prompt": row["prompt"], **row, "seed": None})
    try:
        return [Request.parse({name: value for name, value in row.items() if value is not None}), unchecked]
    except BadSpecification:
        return [unchecked]


@pytest.mark.parametrize("registry", [SHAPES, OTHERS], ids=["shapes", "others"])
@settings(deadline=None, max_examples=examples(150))
@given(rows=st.lists(ROWS, min_size=1, max_size=4), order=st.lists(st.integers(0, 3), max_size=8), prompts=st.data())
def test_a_row_becomes_what_it_would_alone(registry: Registry, rows: list[Any], order: list[int], prompts: Any) -> None:
    kinds, told = Kinds(registry), RemarksOfKinds(registry)
    again = [{**rows[number % len(rows)], "prompt": prompts.draw(PROMPTS)} for number in order]
    for row in [*rows, *rows, *again]:
        for request in requests_of(row):
            agrees(kinds, told, request, row["seed"] if request.seed is None else request.seed)


def agrees(kinds: Kinds, told: RemarksOfKinds, request: Request, seed: int) -> None:
    registry = kinds._registry
    alone, found = came_of(lambda: registry.resolve(request, seed=seed)), came_of(lambda: kinds.resolve(request, seed))
    if not isinstance(alone, Spec):
        assert found == alone
        return
    spec, kind = found
    assert (spec, spec.__dict__, spec.model_fields_set) == (alone, alone.__dict__, alone.model_fields_set)
    assert repr(spec) == repr(alone), "0.0 and -0.0 are equal, and not the same"
    assert row_of(NewJob(spec=spec, kind=kind)) == row_of(NewJob(spec=alone))
    if kind is not None:
        assert [*told[kind].on(spec)] == [*remarks_on(NewJob(spec=alone), registry)]
        assert [*told[kind].unread(spec)] == [*unread(alone, registry[alone.model])]


@pytest.mark.parametrize("registry", [SHAPES, OTHERS], ids=["shapes", "others"])
def test_whatever_is_said_in_a_kind_that_is_known_is_looked_at(registry: Registry) -> None:
    kinds, told = Kinds(registry), RemarksOfKinds(registry)
    known = Request(prompt="a")
    for seed in range(2):
        kinds.resolve(known, seed)
    for prompt in TOLD_PROMPTS:
        agrees(kinds, told, known.model_copy(update={"prompt": prompt}), 5)
    for seed in TOLD_SEEDS:
        agrees(kinds, told, known, seed)


def test_what_is_equal_and_not_the_same_is_of_different_kinds() -> None:
    kinds = Kinds(OTHERS)
    steps = Request(prompt="a", num_inference_steps=1)
    for seed in range(3):
        kinds.resolve(steps, seed)
    with pytest.raises(BadSpecification, match="num_inference_steps"):
        kinds.resolve(steps.model_copy(update={"num_inference_steps": True}), 1)
    signs = [Request(prompt="a", model="skips", sampler="ddim", eta=eta) for eta in (0.0, 0.0, -0.0, -0.0)]
    assert [str(kinds.resolve(one, 1)[0].eta) for one in signs] == ["0.0", "0.0", "-0.0", "-0.0"]


def test_a_kind_is_known_from_the_second_row_on_and_its_values_are_nobodys_to_change() -> None:
    kinds = Kinds(OTHERS)
    found = [kinds.resolve(Request(prompt=f"star {seed}"), seed) for seed in range(4)]
    assert [kind is None for _, kind in found] == [True, False, False, False]
    assert len({id(kind) for _, kind in found[1:]}) == 1
    assert [(spec.prompt, spec.seed) for spec, _ in found] == [(f"star {seed}", seed) for seed in range(4)]
    found[2][0].__dict__["width"] = 8
    assert kinds.resolve(Request(prompt="a"), 9)[0].width == found[0][0].width


def test_however_many_kinds_there_are_few_are_remembered() -> None:
    kinds = Kinds(OTHERS)
    for number in range(2_500):
        kinds.resolve(Request(prompt="a", negative_prompt=f"blurry {number}"), 1)
    kinds.resolve(Request(prompt="a", negative_prompt="b" * 5_000), 1)
    assert len(kinds._known) <= 1_000
    assert max(map(len, kinds._known)) <= 2_000


def test_what_depends_on_its_prompt_is_of_no_kind() -> None:
    weighted = OTHERS.resolve(Request(prompt="(a)1.2", model="weighs"), seed=1)
    assert not has_kind(weighted)
    plain = OTHERS.resolve(Request(prompt="a"), seed=1)
    assert has_kind(plain)
    kind = SpecKind(plain)
    spec = kind.spec('"é\0\\', MAX_SEED)
    assert kind.canonical(spec) == spec.canonical()
    assert kind.batch_key == spec.batch_key()
