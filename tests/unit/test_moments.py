"""Moments as people write them, in zones whose clocks change; windows and when they open."""

import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from scheduler.intake import moments
from scheduler.intake.moments import in_zone, machine_zone, moment, opens_at, shuts_at
from storage.errors import BadSpecification

PARIS = "Europe/Paris"


def at(text: str, zone: str = PARIS) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-12-01 02:00", "2026-12-01 01:00 UTC"),
        (" 2026-07-01T02:00:00 ", "2026-07-01 00:00 UTC"),
        ("2026-12-01 02:00+05:30", "2026-11-30 20:30 UTC"),
        ("2026-12-01t02:00z", "2026-12-01 02:00 UTC"),
        ("2026-03-29 03:00", "2026-03-29 01:00 UTC"),
        ("2026-10-25 02:30+01:00", "2026-10-25 01:30 UTC"),
    ],
)
def test_a_moment_is_read_in_its_zone_or_with_its_own_offset(text: str, utc: str) -> None:
    found = moment(text, PARIS, field="at")
    assert (in_zone(found.at, "UTC"), found.remark) == (utc, None)


def test_a_time_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadSpecification) as refused:
        moment("2026-03-29 02:30", PARIS, field="at")
    assert str(refused.value) == (
        "at: 2026-03-29 02:30 does not exist in Europe/Paris, where the clocks skip it that day; it would be 03:30 CEST"
    )


def test_of_a_time_that_comes_twice_the_first_is_meant_and_that_is_said() -> None:
    found = moment("2026-10-25 02:30", PARIS, field="at")
    assert in_zone(found.at, "UTC") == "2026-10-25 00:30 UTC"
    assert found.remark == (
        "at: 2026-10-25 02:30 comes twice in Europe/Paris that day, and the first is meant (CEST); "
        "2026-10-25 02:30+01:00 would be the second"
    )


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "02:00", "2026-12-01", "2026-13-01 02:00", "2026-12-01 24:30", "0001-01-01 00:00+23:59"]
)
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadSpecification, match=r"^not_before: .* is not a time"):
        moment(text, PARIS, field="not_before")


@pytest.mark.parametrize(
    ("window", "now", "opens"),
    [
        (None, "2026-01-01 12:00", "2026-01-01 12:00"),
        ("01:00-06:00", "2026-01-01 05:59", "2026-01-01 05:59"),
        ("01:00-06:00", "2026-01-01 06:00", "2026-01-02 01:00"),
        ("22:00-06:00", "2026-01-01 06:00", "2026-01-01 22:00"),
        # It opens within the hour that is skipped, and where all of it is skipped not before the next day.
        ("02:30-06:00", "2026-03-29 00:30", "2026-03-29 03:30"),
        ("02:15-02:45", "2026-03-29 00:30", "2026-03-30 02:15"),
    ],
)
def test_when_a_window_opens(window: str | None, now: str, opens: str) -> None:
    assert in_zone(opens_at(window, PARIS, at(now)), PARIS).startswith(opens)


def test_when_a_window_shuts() -> None:
    assert shuts_at("22:00-06:00", PARIS, at("2026-01-01 23:00")) == at("2026-01-02 06:00")
    # Ten hours by the clock, eleven in truth.
    assert shuts_at("20:00-06:00", PARIS, at("2026-10-24 20:00")) - at("2026-10-24 20:00") == 11 * 3600


@pytest.mark.parametrize(
    ("tz", "link", "zone"),
    [
        ("Asia/Tokyo", "/usr/share/zoneinfo/Europe/Paris", "Asia/Tokyo"),
        (":Asia/Tokyo", "", "Asia/Tokyo"),
        ("JST-9", "/usr/share/zoneinfo/Europe/Paris", "UTC"),
        ("", "/usr/share/zoneinfo/Europe/Paris", "Europe/Paris"),
        ("", "/usr/share/zoneinfo/posix/America/Argentina/Ushuaia", "America/Argentina/Ushuaia"),
        ("", "/usr/share/zoneinfo/Etc/UTC", "UTC"),
        ("", "/somewhere/else", "UTC"),
    ],
)
def test_the_zone_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tz: str, link: str, zone: str
) -> None:
    monkeypatch.setitem(os.environ, "TZ", tz)
    (tmp_path / "localtime").symlink_to(link or "nowhere")
    monkeypatch.setattr(moments, "_LOCAL_TIME", tmp_path / "localtime")
    assert machine_zone() == zone
