"""How often it is looked for which receivers messages are due: the dearer, the less often."""

from scheduler.background.due_looks import DueLooks
from storage.events.receivers import DueReceiver


class Farm:
    """Receivers with messages due, and a clock that goes on by what a look takes."""

    def __init__(self, *names: str, takes: float = 1.0) -> None:
        self.names = names
        self.takes = takes
        self.now = 0.0
        self.looks = 0
        self.known = DueLooks(self.look, clock=lambda: self.now)

    def look(self) -> list[DueReceiver]:
        self.looks += 1
        self.now += self.takes
        return [DueReceiver(name=name, due_at=n, failing=False) for n, name in enumerate(self.names)]

    def due(self, *, afresh: bool = False) -> list[str]:
        return [one.name for one in self.known.due(afresh=afresh)]


def test_a_look_that_takes_a_second_is_good_for_nine() -> None:
    farm = Farm("ann a:1")
    for _ in range(20):
        farm.due()
    farm.names = ("ann a:1", "bob b:1")
    farm.now = 9.9
    assert (farm.due(), farm.looks) == (["ann a:1"], 1)
    farm.now = 10.0
    assert (farm.due(), farm.looks) == (["ann a:1", "bob b:1"], 2)


def test_one_that_takes_no_time_is_made_each_time() -> None:
    farm = Farm("ann a:1", takes=0.0)
    farm.due()
    farm.names = ("bob b:1",)
    assert farm.due() == ["bob b:1"]


def test_while_nothing_is_under_way_nothing_is_remembered() -> None:
    farm = Farm("ann a:1")
    farm.due()
    farm.names = ()
    assert farm.due(afresh=True) == []


def test_whom_nothing_was_due_for_is_left_out_until_the_next_look() -> None:
    farm = Farm("ann a:1", "bob b:1")
    farm.due()
    farm.known.forget({"ann a:1", "carl c:1"})
    assert farm.due() == ["bob b:1"]
    farm.now += 9
    assert farm.due() == ["ann a:1", "bob b:1"]


def test_of_an_owner_of_very_many_receivers_those_that_are_first_are_remembered() -> None:
    farm = Farm(*(f"ann {n:05}:1" for n in range(3000)), "bob b:1")
    assert farm.due() == [*(f"ann {n:05}:1" for n in range(500)), "bob b:1"]
