"""The driver's own book: what it asked for, what the farm accepted, what it saw cancelled."""

import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from storage.rules.states import Priority
from storage.spec.picture import Request
from tests.chaos.plan import MODEL_NAMES

#: First seeds lie so far apart, so that a picture's seed tells its order.
ROOM = 1_000_000
_COLOURS = ("red", "green", "blue", "yellow", "orange")
_SHAPES = ("star", "circle", "square", "moon", "heart")
OWNERS = ("ann", "bob", "eve")


@dataclass(frozen=True, kw_only=True)
class Order:
    """A render that was asked for."""

    first_seed: int
    jobs: int
    prompt: str
    model: str
    owner: str
    priority: Priority

    def requests(self) -> Iterator[Request]:
        request = Request.parse({"prompt": self.prompt, "model": self.model})
        return (request.model_copy(update={"seed": self.first_seed + index}) for index in range(self.jobs))


#: Job row → (state, fence) at a moment.
Standing = Mapping[int, tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Safe to use from any thread: each entry is made once, in one step."""

    #: By first seed; also those whose fate is not known, as their submitter was killed or heard no answer.
    orders: dict[int, Order] = field(default_factory=dict)
    #: By render id: the farm said yes.
    accepted: dict[str, Order] = field(default_factory=dict)
    #: By render id: how its jobs stood right after the cancel was confirmed.
    cancelled: dict[str, Standing] = field(default_factory=dict)
    #: Renders whose failed jobs were queued again.
    retried: set[str] = field(default_factory=set)
    #: Tickets that the driver published beside the farm.
    surplus: list[int] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, rng: Random, *, most: int, owner: str | None = None) -> Order:
        """Something new to ask for, for one of the owners unless one is named."""
        with self._lock:
            order = Order(
                first_seed=next(self._numbers) * ROOM,
                jobs=rng.randint(1, most),
                prompt=f"a {rng.choice(_COLOURS)} {rng.choice(_SHAPES)}",
                model=rng.choice(MODEL_NAMES),
                owner=owner or rng.choice(OWNERS),
                priority=rng.choice(tuple(Priority)),
            )
            self.orders[order.first_seed] = order
        return order

    @property
    def jobs_accepted(self) -> int:
        return sum(order.jobs for order in list(self.accepted.values()))
