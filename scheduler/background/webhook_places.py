"""Decide whose webhook message is tried next, so that no receiver and no owner holds up the others."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from storage.events.receivers import DueReceiver, owner_of


@dataclass(frozen=True, kw_only=True)
class DeliveryPlaces:
    """How many messages one process tries at once."""

    total: int = 32
    per_owner: int = 8
    #: An owner's receiver is a host and port.
    per_receiver: int = 4
    #: All receivers that failed, or took long, the last time: at most.
    failing: int = 16
    #: Left to these while others wait without an end: or one bad answer would silence a receiver for as long.
    left_to_failing: int = 2


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A message that is being tried."""

    receiver: str
    #: Its receiver had failed, or taken long, when it was taken.
    failing: bool


def next_receivers(
    due: Collection[DueReceiver], under_way: Collection[UnderWay], places: DeliveryPlaces
) -> list[DueReceiver]:
    """Return for which receivers a message is tried next, one each, in this order.

    Those that failed come after the others, which leave them a few places; among equals, whose owner has the fewest
    messages under way, then whose message was due first.
    """
    free = places.total - len(under_way)
    owners = Counter(owner_of(one.receiver) for one in under_way)
    receivers = Counter(one.receiver for one in under_way)
    failing = sum(one.failing for one in under_way)
    well = len(under_way) - failing
    left = min(places.left_to_failing, places.total // 2, failing + sum(one.failing for one in due))
    chosen: list[DueReceiver] = []
    for one in sorted(due, key=lambda one: (one.failing, owners[one.owner], one.due_at, one.name)):
        if len(chosen) == free:
            break
        if owners[one.owner] >= places.per_owner or receivers[one.name] >= places.per_receiver:
            continue
        if failing >= places.failing if one.failing else well >= places.total - left:
            continue
        chosen.append(one)
        owners[one.owner] += 1
        failing += one.failing
        well += not one.failing
    return chosen
