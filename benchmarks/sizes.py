"""How many pictures an arm makes in a round, so that a slow one does not use up the time of all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class RoundSize:
    """Starts with one batch, then goes by the pace of the round before. What is compared is pictures a second."""

    seconds: float
    most: int
    batch: int = 1
    pictures: int = 0

    def __post_init__(self) -> None:
        self.pictures = self.batch

    @contextmanager
    def timed(self) -> Iterator[int]:
        """Yield how many pictures this round makes; how long they take decides about the next."""
        made, started = self.pictures, time.perf_counter()
        yield made
        self.follow(made, time.perf_counter() - started)

    def follow(self, made: int, seconds: float) -> None:
        """Choose the next round's pictures: as many batches as so many seconds allow, one at least."""
        batches = int(self.seconds * made / max(seconds, 1e-9)) // self.batch
        self.pictures = min(self.most, max(1, batches) * self.batch)
