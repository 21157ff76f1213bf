"""When schedules are due: daylight saving, what was missed, windows."""

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from scheduler.cron.plan import Planned, check_once, check_plan, due, outside_remarks, times_after
from scheduler.intake.moments import is_open
from storage.errors import BadSpecification
from storage.renders.schedules import Plan
from storage.renders.ticking import Ticking


def at(text: str, zone: str = "UTC") -> float:
    """`2026-03-29 03:00`, in a zone; `…+0100` where the hour comes twice."""
    if "+" in text:
        return datetime.strptime(text, "%Y-%m-%d %H:%M%z").timestamp()
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone)).timestamp()


def plan(cron: str | None, *, zone: str = "UTC", catch_up: str = "all", **more: Any) -> Plan:
    said = {"window": None, "overlap": "skip", "seeds": "fresh"} | more
    return Plan(cron=cron, timezone=zone, catch_up=catch_up, **said)


def times(cron: str, zone: str, first: str, last: str) -> list[str]:
    """What is due between two moments of a zone, as its clocks show it."""
    planned = due(plan(cron, zone=zone), after=at(first, zone), now=at(last, zone), ticking_since=at(last, zone))
    return [datetime.fromtimestamp(one.at, ZoneInfo(zone)).strftime("%d %H:%M%z") for one in planned]


#: Zone, expression, from, to, and every time between, as cron(8) of Debian has it: what is planned for an hour that is
#: skipped runs right after it, what is planned for one that comes twice runs once, wildcards follow real time.
DAYLIGHT_SAVING = [
    (
        "Europe/Paris",
        "30 2 * * *",
        "2026-03-28 00:00",
        "2026-03-31 00:00",
        "28 02:30+0100, 29 03:00+0200, 30 02:30+0200",
    ),
    (
        "Europe/Paris",
        "30 2 * * *",
        "2026-10-24 00:00",
        "2026-10-27 00:00",
        "24 02:30+0200, 25 02:30+0200, 26 02:30+0100",
    ),
    (
        "Europe/Paris",
        "0 * * * *",
        "2026-03-29 00:30",
        "2026-03-29 04:30",
        "29 01:00+0100, 29 03:00+0200, 29 04:00+0200",
    ),
    (
        *("Europe/Paris", "0 * * * *", "2026-10-25 00:30", "2026-10-25 03:30"),
        "25 01:00+0200, 25 02:00+0200, 25 02:00+0100, 25 03:00+0100",
    ),
    (
        *("Europe/Paris", "*/30 1-3 * * *", "2026-03-29 00:30", "2026-03-29 04:30"),
        "29 01:00+0100, 29 01:30+0100, 29 03:00+0200, 29 03:30+0200",
    ),
    ("America/New_York", "30 2 * * *", "2026-03-07 12:00", "2026-03-09 12:00", "08 03:00-0400, 09 02:30-0400"),
    ("America/New_York", "30 1 * * *", "2026-10-31 12:00", "2026-11-02 12:00", "01 01:30-0400, 02 01:30-0500"),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00", "2026-04-06 12:00", "05 01:45+1100, 06 01:45+1030"),
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00", "2026-10-05 12:00", "04 02:30+1100, 05 02:15+1100"),
    ("UTC", "30 2 * * *", "2026-03-28 00:00", "2026-03-31 00:00", "28 02:30+0000, 29 02:30+0000, 30 02:30+0000"),
]


@pytest.mark.parametrize(("zone", "cron", "first", "last", "expected"), DAYLIGHT_SAVING)
def test_daylight_saving_is_kept_as_cron_users_expect(
    zone: str, cron: str, first: str, last: str, expected: str
) -> None:
    assert times(cron, zone, first, last) == expected.split(", ")


def decided(catch_up: str, *, after: str, now: str) -> list[tuple[str, bool]]:
    planned: list[Planned] = due(
        plan("0 * * * *", catch_up=catch_up), after=at(after), now=at(now), ticking_since=at(now)
    )
    return [(datetime.fromtimestamp(one.at, ZoneInfo("UTC")).strftime("%H:%M"), one.fires) for one in planned]


@pytest.mark.parametrize(
    ("catch_up", "fire"), [("none", []), ("last", ["12:00"]), ("all", ["09:00", "10:00", "11:00", "12:00"])]
)
def test_what_was_missed_follows_its_rule(catch_up: str, fire: list[str]) -> None:
    found = decided(catch_up, after="2026-01-01 08:30", now="2026-01-01 12:30")
    assert [time for time, _ in found] == ["09:00", "10:00", "11:00", "12:00"]
    assert [time for time, fires in found if fires] == fire


@pytest.mark.parametrize(("catch_up", "fire"), [("none", ["12:00"]), ("last", ["12:00"]), ("all", ["11:00", "12:00"])])
def test_what_is_due_now_fires_whatever_was_missed(catch_up: str, fire: list[str]) -> None:
    found = decided(catch_up, after="2026-01-01 10:30", now="2026-01-01 12:01")
    assert [time for time, fires in found if fires] == fire


def test_nothing_is_due_twice_or_before_its_time() -> None:
    assert decided("all", after="2026-01-01 12:00", now="2026-01-01 12:59") == []
    # The clock was set back.
    assert decided("all", after="2026-01-01 12:00", now="2026-01-01 10:00") == []


@pytest.mark.parametrize(
    ("window", "times_open", "times_shut"),
    [
        ("01:00-06:00", ["01:00", "03:30", "05:59"], ["00:59", "06:00", "12:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        (None, ["00:00", "12:00"], []),
    ],
)
def test_a_window_is_open_from_its_first_minute_until_its_last(
    window: str | None, times_open: list[str], times_shut: list[str]
) -> None:
    def opened(time: str) -> bool:
        return is_open(window, "Europe/Paris", at(f"2026-07-01 {time}", "Europe/Paris"))

    assert all(map(opened, times_open))
    assert not any(map(opened, times_shut))


@pytest.mark.parametrize(
    ("cron", "zone", "window", "says"),
    [
        ("0 25 * * *", "UTC", None, "cron: .*bad hour"),
        ("* * *", "UTC", None, "cron: .*wrong number of fields"),
        ("", "UTC", None, "cron: "),
        ("0 0 30 2 *", "UTC", None, "cron: "),
        ("* * * * * *", "UTC", None, "cron: "),
        ("0 2 * * *", "Europe/Atlantis", None, "timezone: .*not a time zone"),
        ("0 2 * * *", "../../etc/passwd", None, "timezone: .*not a time zone"),
        ("0 2 * * *", "", None, "timezone: .*not a time zone"),
        ("0 2 * * *", "UTC", "1-6", "window: "),
        ("0 2 * * *", "UTC", "24:00-06:00", "window: "),
        ("0 2 * * *", "UTC", "06:00-06:00", "window: "),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(cron: str, zone: str, window: str | None, says: str) -> None:
    with pytest.raises(BadSpecification, match=says):
        check_plan(cron, zone, window)


@pytest.mark.parametrize("cron", ["0 2 * * *", "@daily", "*/15 8-18 * * mon-fri", "0 0 29 2 *", "0 0 L * *"])
def test_a_plan_that_can_be_meant_is_taken(cron: str) -> None:
    check_plan(cron, "Europe/Paris", "22:00-06:00")


def test_what_came_due_while_somebody_was_ticking_is_due_however_late_it_is_looked_at() -> None:
    first, now = at("2026-01-01 08:30"), at("2026-01-01 12:30")
    found = due(plan("0 * * * *", catch_up="none"), after=first, now=now, ticking_since=at("2026-01-01 10:30"))
    assert [one.fires for one in found] == [False, False, True, True]


@pytest.mark.parametrize(
    ("before", "began", "now", "after"),
    [
        pytest.param((0, 100), 102, 102, (0, 102), id="goes on"),
        pytest.param((0, 100), 160, 160, (0, 160), id="goes on after a minute"),
        pytest.param((0, 100), 161, 161, (161, 161), id="nobody ticked for longer"),
        pytest.param((0, 100), 102, 702, (0, 702), id="waited for whoever wrote"),
        pytest.param((0, 100), 200, 300, (200, 300), id="nobody ticked, then it waited"),
        pytest.param((0, 100), 102, 703, (703, 703), id="was frozen while it waited"),
        pytest.param((0, 100), 70, 70, (0, 70), id="the clock was set back a little"),
        pytest.param((50, 100), 45, 45, (45, 45), id="further than it had ticked"),
        pytest.param((0, 10_000), 100, 100, (100, 100), id="the clock was set back by hours"),
    ],
)
def test_ticks_that_follow_one_another_are_one_stretch(
    before: tuple[float, float], began: float, now: float, after: tuple[float, float]
) -> None:
    stretch = Ticking(since=before[0], until=before[1]).then(began=began, now=now, gap=60)
    assert (stretch.since, stretch.until) == after


def test_what_fires_once_is_due_once_and_then_never() -> None:
    once = plan(None, at=at("2026-12-01 02:00"), catch_up="last")
    assert due(once, after=at("2026-11-30 00:00"), now=at("2026-12-01 01:59"), ticking_since=0) == []
    [planned] = due(once, after=at("2026-11-30 00:00"), now=at("2026-12-01 02:00"), ticking_since=0)
    assert (planned.at, planned.fires) == (at("2026-12-01 02:00"), True)
    assert due(once, after=planned.at, now=at("2027-12-01 02:00"), ticking_since=0) == []
    assert list(times_after(once, planned.at)) == []


@pytest.mark.parametrize(("catch_up", "fires"), [("none", False), ("last", True), ("all", True)])
def test_what_was_to_fire_once_and_was_missed_follows_its_rule(catch_up: str, *, fires: bool) -> None:
    once, later = plan(None, at=at("2026-12-01 02:00"), catch_up=catch_up), at("2026-12-02 02:00")
    [planned] = due(once, after=at("2026-11-30 00:00"), now=later, ticking_since=later)
    assert planned.fires == fires


def test_a_time_in_the_past_is_refused() -> None:
    now = at("2026-12-01 02:00")
    check_once(now + 1, "UTC", None, now=now)
    with pytest.raises(BadSpecification, match="at: 2026-12-01 02:00 UTC is past; it is 2026-12-01 02:00 UTC now"):
        check_once(now, "UTC", None, now=now)
    with pytest.raises(BadSpecification, match="window: '1-6'"):
        check_once(now + 1, "UTC", "1-6", now=now)


@pytest.mark.parametrize(
    ("cron", "window", "says"),
    [
        ("0 2 * * *", None, None),
        ("0 2 * * *", "01:00-06:00", None),
        ("0 6 * * *", "01:00-06:00", "no time lies within the window 01:00-06:00; .*06:00 CET wait until .*01:00 CET"),
        ("0 */12 * * *", "22:00-06:00", "50 of the next 100 times lie outside the window 22:00-06:00: .*12:00 CET"),
    ],
)
def test_times_outside_the_window_are_remarked(cron: str, window: str | None, says: str | None) -> None:
    found = outside_remarks(plan(cron, zone="Europe/Paris", window=window), now=at("2026-01-01 00:30"))
    assert [bool(re.search(says or "", remark)) for remark in found] == ([] if says is None else [True])


def test_a_time_outside_the_window_is_remarked_if_it_fires_once() -> None:
    once = plan(None, at=at("2026-12-01 07:00"), window="01:00-06:00")
    [remark] = outside_remarks(once, now=0)
    assert remark == "at: outside the window 01:00-06:00; its pictures wait until 2026-12-02 01:00 UTC"
    assert outside_remarks(plan(None, at=at("2026-12-01 05:59"), window="01:00-06:00"), now=0) == []
