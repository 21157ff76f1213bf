"""The farm's last news: from where one may go on, and who is told what."""

import pytest

from scheduler.api.waiting.farm_log import TOPICS, FarmLog, News, Topic


def news(number: int = 0, **more: object) -> News:
    return News(**{"topic": "renders", "kind": "render", "data": str(number), "owner": "ann", **more})  # type: ignore[arg-type]


def told(log: FarmLog, number: int) -> list[str] | None:
    found = log.after(number)
    return None if found is None else [one.data for _, one in found]


def test_whoever_knows_a_number_is_told_all_that_came_after_it() -> None:
    log = FarmLog()
    log.tell(news(number) for number in range(1, 6))
    assert log.last == 5
    assert [told(log, number) for number in (0, 3, 5)] == [["1", "2", "3", "4", "5"], ["4", "5"], []]
    assert [number for number, _ in log.after(3) or ()] == [4, 5]


def test_a_place_is_known_until_what_followed_it_is_forgotten() -> None:
    log = FarmLog(kept=3)
    begin = log.place()
    log.tell([news(1)])
    later = log.place()
    assert (log.number(begin), log.number(later)) == (0, 1)
    log.tell(news(number) for number in (2, 3, 4))
    assert (log.number(begin), log.number(later), told(log, 1)) == (None, 1, ["2", "3", "4"])
    log.lose()
    assert log.number(later) is None
    assert (log.number(log.place()), told(log, log.last)) == (log.last, [])


@pytest.mark.parametrize(
    "place", [None, "", ".", "x", "x.1", "1", "{run}.", "{run}.-1", "{run}.99", "{run}.1e3", "{run}.²"]
)
def test_what_no_place_was_is_known_nowhere(place: str | None) -> None:
    log = FarmLog()
    log.tell([news()])
    run = log.place().partition(".")[0]
    assert log.number(place and place.replace("{run}", run)) is None
    assert FarmLog().number(log.place()) is None


@pytest.mark.parametrize(
    ("one", "ann", "ben", "admin"),
    [
        (news(), True, False, True),
        (news(owner=None), True, True, True),
        (news(admins=False), True, False, False),
        (news(owner="", admins=True), False, False, True),
    ],
)
def test_news_of_an_owner_concern_that_one_and_admins(one: News, ann: bool, ben: bool, admin: bool) -> None:
    assert [one.concerns(sees, TOPICS) for sees in ("ann", "ben", None)] == [ann, ben, admin]
    others: tuple[Topic, ...] = ("jobs", "workers", "backlog")
    assert not any(one.concerns(sees, others) for sees in ("ann", "ben", None))
