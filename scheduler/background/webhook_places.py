"""Decide whose webhook message is tried next, so that no receiver and no owner holds up the others."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from storage.events.receivers import DueReceiver, owner_of


@dataclass(frozen=True, kw_only=True)
class DeliveryPlaces:
    """How many messages one process tries at once."""

    total: int = 32
    per_owner: int = 8
    #: An owner's receiver is a host and port.
    per_receiver: int = 4
    #: All receivers that failed, or took long, the last time.
    failing: int = 16


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A message that is being tried."""

    receiver: str
    #: Its receiver had failed, or taken long, when it was taken.
    failing: bool


def next_receivers(
    due: Iterable[DueReceiver], under_way: Collection[UnderWay], places: DeliveryPlaces
) -> list[DueReceiver]:
    """Return for which receivers a message is tried next, one each, in this order.

    Those that failed come after the others; among equals, whose owner has the fewest messages under way, then whose
    message was due first.
    """
    free = places.total - len(under_way)
    owners = Counter(owner_of(one.receiver) for one in under_way)
    receivers = Counter(one.receiver for one in under_way)
    failing = sum(one.failing for one in under_way)
    chosen: list[DueReceiver] = []
    for one in sorted(due, key=lambda one: (one.failing, owners[one.owner], one.due_at, one.name)):
        if len(chosen) == free:
            break
        if owners[one.owner] >= places.per_owner or receivers[one.name] >= places.per_receiver:
            continue
        if one.failing and failing >= places.failing:
            continue
        chosen.append(one)
        owners[one.owner] += 1
        failing += one.failing
    return chosen
