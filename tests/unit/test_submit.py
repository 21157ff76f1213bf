from collections.abc import Iterable, Iterator

import pytest

from scheduler.intake.requests import BadRows, SourcedRequest, numbered, with_defaults
from scheduler.intake.specify import specify
from scheduler.intake.submit import quanta
from storage.errors import BadSpecification, InvalidInput
from storage.spec.models import SimulatedModel
from storage.spec.picture import DISTINCT_SEEDS, MAX_SEED, Request
from storage.spec.registry import Registry

REGISTRY = Registry(
    models={
        "quick": SimulatedModel(alias="quick", kind="simulated", batch_limit=4),
        "slow": SimulatedModel(alias="slow", kind="simulated", batch_limit=2),
    },
    default="quick",
)


def seeds(requests: Iterable[Request], *, pictures_each: int = 1, seed: int | None = None) -> list[int]:
    return [one.spec.seed for one in specify(numbered(requests), REGISTRY, pictures_each=pictures_each, seed=seed)]


def asked(*own_seeds: int | None) -> list[Request]:
    return [Request(prompt=f"prompt {index}", seed=seed) for index, seed in enumerate(own_seeds)]


@pytest.mark.parametrize(
    ("own_seeds", "pictures_each", "seed", "expected"),
    [
        ((None, None, None), 1, 31, [31, 32, 33]),
        ((None, 7, None), 1, 31, [31, 7, 32]),
        ((None, None), 3, 31, [31, 32, 33, 34, 35, 36]),
        ((7, 7), 2, 31, [7, 8, 7, 8]),
        ((5, None), 2, 0, [5, 6, 0, 1]),
        ((0,), 1, 31, [0]),
        ((None, None), 1, MAX_SEED - 1, [MAX_SEED - 1, MAX_SEED]),
        ((), 3, 31, []),
    ],
)
def test_seeds_count_up_from_the_given_one_and_a_row_keeps_its_own(
    own_seeds: tuple[int | None, ...], pictures_each: int, seed: int, expected: list[int]
) -> None:
    assert seeds(asked(*own_seeds), pictures_each=pictures_each, seed=seed) == expected


@pytest.mark.parametrize(
    ("own_seed", "pictures_each", "seed"), [(None, 1, MAX_SEED + 1), (None, 2, MAX_SEED), (MAX_SEED, 2, None)]
)
def test_a_seed_that_grows_past_the_largest_is_refused(
    own_seed: int | None, pictures_each: int, seed: int | None
) -> None:
    with pytest.raises(BadSpecification, match=f"seed: {MAX_SEED + 1} .*{MAX_SEED}"):
        seeds(asked(own_seed), pictures_each=pictures_each, seed=seed)


def test_seeds_that_nobody_gave_are_distinct_within_a_render_and_between_renders() -> None:
    one, other = seeds(asked(*[None] * 1000)), seeds(asked(*[None] * 1000))
    assert len({*one, *other}) == 2000


def test_drawn_seeds_draw_different_noise_however_high_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Noise has 32 bits of seed: 5 and 2³² + 5 would be twins.
    monkeypatch.setattr("scheduler.intake.specify.draw_seed", lambda: DISTINCT_SEEDS - 2)
    assert seeds(asked(*[None] * 4)) == [DISTINCT_SEEDS - 2, DISTINCT_SEEDS - 1, 0, 1]


def test_a_given_seed_counts_up_as_it_always_has() -> None:
    # What was submitted with it is to be the same again.
    assert seeds(asked(None, None), seed=DISTINCT_SEEDS - 1) == [DISTINCT_SEEDS - 1, DISTINCT_SEEDS]
    assert seeds(asked(250771369334713), pictures_each=2) == [250771369334713, 250771369334714]


def test_drawn_seeds_have_32_bits() -> None:
    assert max(seeds(asked(*[None] * 1000))) < DISTINCT_SEEDS == 2**32


def test_a_picture_takes_what_its_request_leaves_out_from_its_model() -> None:
    [one] = specify(numbered([Request(prompt="a", model="slow", width=64)]), REGISTRY, seed=1)
    spec = one.spec
    assert (spec.model, spec.width, spec.height, spec.num_inference_steps) == ("slow", 64, 512, 30)


def test_a_request_that_cannot_be_carried_out_is_named_by_its_place() -> None:
    requests = [Request(prompt="a"), Request(prompt="b", model="nope")]
    with pytest.raises(InvalidInput, match="2: .*'nope'.*quick, slow"):
        list(specify(numbered(requests), REGISTRY))


def test_specifications_are_made_as_they_are_asked_for() -> None:
    def endless() -> Iterator[Request]:
        while True:
            yield Request(prompt="again")

    specs = specify(numbered(endless()), REGISTRY, seed=1)
    assert [next(specs).spec.seed, next(specs).spec.seed] == [1, 2]


def test_defaults_fill_in_only_what_is_left_out() -> None:
    requests = [Request(prompt="a", width=64), Request(prompt="b"), Request(prompt="c", negative_prompt="")]

    filled = [one.request for one in with_defaults(numbered(requests), {"width": 128, "negative_prompt": "dark"})]

    assert [(request.width, request.negative_prompt) for request in filled] == [(64, "dark"), (128, "dark"), (128, "")]


def test_an_owner_is_dealt_one_batch_a_turn() -> None:
    assert quanta(REGISTRY) == {"quick": 4, "slow": 2}


def test_a_name_that_its_number_makes_too_long_is_refused_with_its_place() -> None:
    named = [Request(prompt="a", custom_id="n" * 199)]
    assert [one.custom_id for one in specify(numbered(named), REGISTRY)] == ["n" * 199]
    with pytest.raises(BadSpecification, match=r"prompt 1: custom_id: .* has 201 characters"):
        list(specify(numbered(named), REGISTRY, pictures_each=2))


@pytest.mark.parametrize(
    ("rows", "pictures_each", "says"),
    [
        (
            [("line 1", "x"), ("line 2", None), ("line 4", "x")],
            1,
            "line 4: duplicate custom_id 'x'; line 1 has it, too",
        ),
        ([("line 1", "x-1"), ("line 2", "x")], 2, None),
        ([("line 1", "x"), ("line 2", "x")], 2, "line 2: duplicate custom_id 'x-0'; line 1 has it, too"),
        ([("", "x"), ("", "x")], 1, "duplicate custom_id 'x'; another picture of it has it, too"),
    ],
)
def test_a_name_that_is_taken_is_refused_with_both_places(
    rows: list[tuple[str, str | None]], pictures_each: int, says: str | None
) -> None:
    named = [SourcedRequest(where, Request(prompt="a", custom_id=name)) for where, name in rows]
    if says is None:
        assert len(list(specify(named, REGISTRY, pictures_each=pictures_each))) == len(rows) * pictures_each
        return
    with pytest.raises(BadSpecification, match=f"^{says}$"):
        list(specify(named, REGISTRY, pictures_each=pictures_each))


def test_a_row_whose_name_is_taken_can_be_left_out() -> None:
    named = [SourcedRequest(f"line {n}", Request(prompt=str(n), custom_id=name)) for n, name in enumerate("xyxz")]
    bad = BadRows(report=lambda _: None)
    assert [one.spec.prompt for one in specify(named, REGISTRY, bad=bad)] == ["0", "1", "3"]
    assert bad.left_out == 1
