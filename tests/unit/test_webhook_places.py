"""Whose webhook message is tried next."""

import pytest

from scheduler.background.webhook_places import DeliveryPlaces, UnderWay, next_receivers
from storage.events.receivers import DueReceiver, receiver_of


def due(name: str, at: float = 0, *, failing: bool = False) -> DueReceiver:
    return DueReceiver(name=name, due_at=at, failing=failing)


def trying(name: str, n: int = 1, *, failing: bool = False) -> list[UnderWay]:
    return [UnderWay(receiver=name, failing=failing)] * n


def chosen(asked: list[DueReceiver], under_way: list[UnderWay], **places: int) -> list[str]:
    return [one.name for one in next_receivers(asked, under_way, DeliveryPlaces(**places))]


def test_whose_message_was_due_first_is_first() -> None:
    assert chosen([due("ann a:1", 2), due("bob b:1", 1)], []) == ["bob b:1", "ann a:1"]


def test_whose_owner_has_fewer_under_way_is_before_that() -> None:
    assert chosen([due("ann a:1", 1), due("bob b:1", 2)], trying("ann c:1")) == ["bob b:1", "ann a:1"]


def test_who_failed_comes_after_everybody_else() -> None:
    asked = [due("ann a:1", 1, failing=True), due("bob b:1", 2)]
    assert chosen(asked, trying("bob c:1", 3)) == ["bob b:1", "ann a:1"]


def test_there_are_never_more_than_there_are_places() -> None:
    asked = [due(f"owner{n} a:1") for n in range(9)]
    assert len(chosen(asked, trying("ann a:1", 2), total=5)) == 3
    assert chosen(asked, trying("ann a:1", 5), total=5) == []


@pytest.mark.parametrize("limit", ["per_owner", "per_receiver"])
def test_who_has_as_many_under_way_as_may_be_waits(limit: str) -> None:
    asked = [due("ann a:1", 1), due("bob b:1", 2)]
    assert chosen(asked, trying("ann a:1", 2), **{limit: 2}) == ["bob b:1"]


def test_an_owners_receivers_share_the_owners_places() -> None:
    asked = [due(f"ann host{n}:1", n) for n in range(9)]
    assert chosen(asked, trying("ann other:1"), per_owner=3) == ["ann host0:1", "ann host1:1"]


def test_those_that_failed_never_hold_all_places() -> None:
    asked = [due(f"owner{n} a:1", n, failing=True) for n in range(9)] + [due("bob b:1", 99)]
    assert chosen(asked, trying("ann a:1", failing=True), failing=3) == ["bob b:1", "owner0 a:1", "owner1 a:1"]


def test_those_that_failed_have_a_few_places_while_others_wait_without_an_end() -> None:
    others = [due(f"owner{n} a:1", n) for n in range(9)]
    asked = [*others, due("ann a:1", 99, failing=True), due("ann b:1", 99, failing=True)]
    assert chosen(asked, [], total=6)[4:] == ["ann a:1", "ann b:1"]
    assert chosen(asked, trying("bob a:1", 4), total=6) == ["ann a:1", "ann b:1"]
    # Nobody leaves more than are used, nor the only place.
    assert len(chosen(others, [], total=6)) == 6
    assert chosen([*others, due("ann a:1", 99, failing=True)], [], total=6)[4:] == ["owner4 a:1", "ann a:1"]
    assert chosen(asked, [], total=1) == ["owner0 a:1"]


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://Hooks.Example/a?b=1", "ann hooks.example:443"),
        ("http://hooks.example", "ann hooks.example:80"),
        ("https://hooks.example:8443/", "ann hooks.example:8443"),
        ("https://[::1]:99999/", "ann :0"),
        (f"https://{'x' * 4000}/", f"ann {'x' * 255}:443"),
    ],
)
def test_a_receiver_is_a_host_and_port_of_an_owner(url: str, receiver: str) -> None:
    assert receiver_of("ann", url) == receiver
