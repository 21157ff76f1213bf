"""Where more pictures in a call stop being worth their wait: found within a few tries, and kept."""

import random
from collections.abc import Callable

import pytest

from worker.serving.knee_search import KneeSearch

SAMPLES = 2


class Calls:
    """Calls on a device where one of B pictures takes `cost(B)` seconds, while more than enough wait."""

    def __init__(self, cost: Callable[[int], float], *, start: int = 8) -> None:
        self.cost = cost
        self.search = KneeSearch(start, SAMPLES)
        self.now = 0.0
        self.sizes: list[int] = []

    def make(self, calls: int, *, most: int = 64, longest: float = 1e9, key: str = "k") -> None:
        for _ in range(calls):
            size = self.search.candidate(key, most=most, longest=longest, now=self.now) or self.search.size
            seconds = self.cost(size)
            self.now += seconds
            self.sizes.append(size)
            self.search.note(key, size, share=seconds / size, seconds=seconds, now=self.now)

    @property
    def tried(self) -> list[int]:
        return list(dict.fromkeys(self.sizes))


def linear(a: float, c: float, *, noise: float = 0.0) -> Callable[[int], float]:
    draw = random.Random(f"{a} {c}")
    return lambda pictures: (a + c * pictures) * (1 + draw.uniform(0, noise))


def knee(a: float, c: float) -> int:
    """By the rules, from what calls really take."""
    size = 8

    def share(n: int) -> float:
        return a / n + c

    while size < 64 and share(2 * size) <= 0.9 * share(size):
        size *= 2
    best = share(16)
    while size <= 8 and size > 1 and share(size // 2) <= 1.05 * min(best, share(8)):
        size //= 2
    return size


COSTS = [
    (0.012, 0.004),
    (0.1, 0.001),
    (0.05, 0.02),
    (0.001, 0.05),
    (0.0, 0.01),
    (0.02, 0.0),
    (0.3, 0.01),
    (0.004, 0.009),
]


@pytest.mark.parametrize(("a", "c"), COSTS)
def test_the_knee_is_found_within_a_few_tries_and_kept(a: float, c: float) -> None:
    calls = Calls(linear(a, c))
    calls.make(30)
    assert calls.search.settled
    assert calls.search.size == knee(a, c)
    assert len(calls.tried) <= 5
    # None is gone back to but the best; the first call of each prepared kernels.
    others = [size for size in calls.sizes if size != calls.search.size]
    assert all(others.count(size) == SAMPLES + 1 for size in others)
    calls.make(100)
    assert set(calls.sizes[30:]) == {knee(a, c)}


@pytest.mark.parametrize(("a", "c"), COSTS)
def test_a_little_noise_moves_the_knee_by_a_step_at_most(a: float, c: float) -> None:
    calls = Calls(linear(a, c, noise=0.05))
    calls.make(60)
    truth = knee(a, c)
    assert calls.search.size in {truth // 2, truth, 2 * truth}


@pytest.mark.parametrize(("a", "c"), COSTS)
def test_with_much_noise_nothing_swings_and_no_picture_takes_twice_its_time(a: float, c: float) -> None:
    calls = Calls(linear(a, c, noise=0.4))
    calls.make(60)
    assert calls.search.settled
    assert sum(one != other for one, other in zip(calls.sizes, calls.sizes[1:], strict=False)) <= 7
    share = linear(a, c)
    assert share(calls.search.size) / calls.search.size <= 2 * share(knee(a, c)) / knee(a, c)


def test_small_losses_do_not_add_up() -> None:
    # Each half is 4 % slower a picture than its double: the first may be taken, no more.
    shares = {64: 1.0, 32: 1.0, 16: 1.0, 8: 1.0, 4: 1.04, 2: 1.08, 1: 1.12}
    calls = Calls(lambda pictures: pictures * shares[pictures])
    calls.make(60)
    assert (calls.search.size, calls.search.settled) == (4, True)


def test_the_first_sample_of_a_number_prepares_kernels_and_is_not_counted() -> None:
    seen: set[int] = set()

    def cost(pictures: int) -> float:
        first = pictures not in seen
        seen.add(pictures)
        return 100.0 if first else linear(0.1, 0.001)(pictures)

    calls = Calls(cost)
    calls.make(30)
    assert calls.search.size == knee(0.1, 0.001) == 64


def test_nothing_is_tried_beyond_what_fits_or_may_last() -> None:
    calls = Calls(linear(0.1, 0.001))
    calls.make(30, most=16)
    assert (calls.search.size, max(calls.sizes), calls.search.settled) == (16, 16, True)

    # A call of 16 takes 0.116 s, one of 32 perhaps twice that.
    calls = Calls(linear(0.1, 0.001))
    calls.make(30, longest=0.22)
    assert (calls.search.size, max(calls.sizes), calls.search.settled) == (16, 16, True)


def test_calls_of_other_kinds_are_not_compared() -> None:
    calls = Calls(linear(0.1, 0.001))
    calls.make(3, key="slow")
    # What is tried with one kind says nothing against another one's.
    calls.search.note("fast", 8, share=1e-9, seconds=1e-9, now=calls.now)
    calls.make(27, key="slow")
    assert calls.search.size == 64


def test_what_was_measured_long_ago_is_measured_again() -> None:
    calls = Calls(linear(0.1, 0.001))
    calls.make(3)
    assert calls.search.candidate("k", most=64, longest=1e9, now=calls.now) == 16
    calls.now += 3600
    calls.cost = linear(0.0, 0.01)
    assert calls.search.candidate("k", most=64, longest=1e9, now=calls.now) is None
    calls.make(40)
    assert calls.search.size == 1
