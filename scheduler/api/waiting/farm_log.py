"""What was told of the farm lately, numbered: who comes again goes on where they were, or learns that they cannot."""

import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from storage.rules.ids import random_id

Topic = Literal["renders", "jobs", "workers", "backlog"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
#: Some seconds of a busy farm; whoever is further behind reads everything anew.
_KEPT = 2000


@dataclass(frozen=True, kw_only=True)
class News:
    """Something to tell, and to whom."""

    topic: Topic
    kind: str
    #: What is sent of it: JSON.
    data: str
    #: Whose it is; None: everybody's, such as a worker.
    owner: str | None = None
    #: Whether those are told who may see what is everybody's.
    admins: bool = True

    def concerns(self, sees: str | None, topics: Collection[Topic]) -> bool:
        """Return whether somebody is told who sees an owner's renders, or (None) all, and asked for these topics."""
        if self.topic not in topics:
            return False
        return self.admins if sees is None else self.owner in (None, sees)


class FarmLog:
    """The last news. Numbers go up by one, as long as this process lives."""

    def __init__(self, *, kept: int = _KEPT) -> None:
        #: Two processes number what they tell each for itself.
        self._run = random_id()
        self._last = 0
        self._told_at = time.monotonic()
        self._news: deque[News] = deque(maxlen=kept)

    @property
    def last(self) -> int:
        """The number of the last news."""
        return self._last

    def place(self, number: int | None = None) -> str:
        """Return what clients send to go on after a number (the last)."""
        return f"{self._run}.{self._last if number is None else number}"

    def number(self, place: str | None) -> int | None:
        """Return the number that a client goes on after; None if that is not known here, or no more."""
        run, _, number = (place or "").partition(".")
        if run != self._run or not number.isdecimal() or len(number) > 15:
            return None
        return int(number) if self._last - len(self._news) <= int(number) <= self._last else None

    def told_at(self, place: str) -> float | None:
        """Return when news was told last, if a place is known here: all up to it had happened by then."""
        return None if self.number(place) is None else self._told_at

    def tell(self, news: Iterable[News]) -> None:
        """Add news."""
        for one in news:
            self._told_at = time.monotonic()
            self._news.append(one)
            self._last += 1

    def lose(self) -> None:
        """Note that more has happened than is known: nobody goes on from before."""
        self._told_at = time.monotonic()
        self._news.clear()
        self._last += 1

    def after(self, number: int) -> list[tuple[int, News]] | None:
        """Return what came after a number; None if not all of it is known any more."""
        behind = self._last - number
        if behind > len(self._news):
            return None
        start = len(self._news) - behind
        return list(enumerate(islice(self._news, start, None), number + 1))
