"""Which pictures go into which shard: decided by the rows alone, so that every export of a render is cut alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from storage.renders.views import JobView

#: However small the pictures are.
_MOST_PICTURES = 100_000


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """A number of pictures per shard, or of bytes of picture files."""

    pictures: int | None = None
    bytes: int | None = None

    def fields(self) -> dict[str, Any]:
        return {"shard_size": self.pictures, "shard_bytes": self.bytes}

    @property
    def key_digits(self) -> int:
        return max(4, len(str((self.pictures or _MOST_PICTURES) - 1)))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive jobs, including failed ones."""

    number: int
    jobs: tuple[JobView, ...]
    key_digits: int

    @property
    def name(self) -> str:
        """Five digits, as img2dataset names its shards."""
        return f"{self.number:05d}"

    def key(self, position: int) -> str:
        return f"{self.name}{position:0{self.key_digits}d}"


def shards(jobs: Iterable[JobView], sharding: Sharding) -> Iterator[Shard]:
    """Cut final jobs, in the order of their indexes; one shard at a time is in memory."""
    gathered: list[JobView] = []
    number = held = 0
    for job in jobs:
        if gathered and _full(sharding, len(gathered), held + (job.bytes or 0)):
            yield Shard(number=number, jobs=tuple(gathered), key_digits=sharding.key_digits)
            gathered, held, number = [], 0, number + 1
        gathered.append(job)
        held += job.bytes or 0
    if gathered:
        yield Shard(number=number, jobs=tuple(gathered), key_digits=sharding.key_digits)


def _full(sharding: Sharding, pictures: int, with_next: int) -> bool:
    if pictures >= (sharding.pictures or _MOST_PICTURES):
        return True
    return sharding.bytes is not None and with_next > sharding.bytes
