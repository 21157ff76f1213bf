"""Schedules over HTTP: made, looked into, changed; what cannot be meant is refused by its field."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.stage import Stage, running_stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("doors") / "home") as stage:
        yield stage


@pytest.fixture
def ann(stage: Stage) -> httpx.Client:
    return stage.client()


def add(client: httpx.Client, name: str, **more: Any) -> Any:
    asked = {"name": name, "render": {"prompt": "a star", "model": "toy"}} | more
    made = client.post("/v1/schedules", json=asked)
    assert made.status_code == 201, made.text
    return made.json()


def refused(answer: httpx.Response, words: str) -> None:
    assert answer.status_code == 422, answer.text
    assert words in answer.text


def test_a_schedule_fires_once_in_its_zone_which_is_utc_unless_another_is_given(ann: httpx.Client) -> None:
    made = add(ann, "once", at="2036-12-01 02:00")
    assert (made["cron"], made["timezone"], made["ended"], made["catch_up"]) == (None, "UTC", False, "last")
    assert made["at"] == made["next_at"] == 2_111_709_600.0
    assert made["remarks"][0] == "timezone: UTC, since none was given"
    paris = add(ann, "paris", at="2036-12-01T02:00:00+01:00", timezone="Europe/Paris")
    assert made["at"] - paris["at"] == 3600
    assert paris["remarks"] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"at": "2026-01-01 02:00"}, "is past; it is"),
        ({"at": "2036-03-30 02:30", "timezone": "Europe/Paris"}, "does not exist in Europe/Paris"),
        ({"at": "2036-13-30 02:30"}, "at: "),
        ({"at": "2036-01-01 02:00", "cron": "@daily"}, "both were given"),
        ({}, "neither was given"),
        ({"cron": "@daily", "limits": {"pictures": 0}}, "limits.pictures"),
        ({"cron": "@daily", "limits": {"device_minutes": -1}}, "limits.device_minutes"),
        ({"cron": "@daily", "limits": {"hours": 1}}, "limits.hours"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(ann: httpx.Client, change: dict[str, Any], says: str) -> None:
    refused(ann.post("/v1/schedules", json={"name": "wrong", "render": {"prompt": "a", "model": "toy"}} | change), says)
    assert ann.get("/v1/schedules/wrong").status_code == 404


# -- renders with times ----------------------------------------------------------------------------------------


def test_a_render_is_held_until_its_time_and_says_so(ann: httpx.Client) -> None:
    asked = {"prompt": "a star", "model": "toy", "not_before": "2036-12-01 02:00", "window": "01:00-05:00"}
    made = ann.post("/v1/renders", json=asked).json()
    assert (made["state"], made["not_before"], made["window"]) == ("held", 2_111_709_600.0, "01:00-05:00")
    assert made["timezone"] == "UTC"
    assert "timezone: UTC, since none was given" in made["remarks"]
    assert made["why"].startswith("held until 2036-12-01 02:00 UTC")
    assert ann.post(f"/v1/renders/{made['id']}/release").json()["state"] == "running"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"not_before": "soon"}, "not_before: 'soon' is not a time"),
        ({"not_before": "2036-03-30 02:30", "timezone": "Europe/Paris"}, "not_before: 2036-03-30 02:30 does not exist"),
        ({"window": "1-5"}, "window: '1-5' is not a window"),
        ({"window": "01:00-05:00", "timezone": "Mars/Base"}, "timezone: 'Mars/Base'"),
        ({"timezone": "Europe/Paris"}, "neither is given"),
    ],
)
def test_times_that_cannot_be_meant_are_refused(ann: httpx.Client, change: dict[str, Any], says: str) -> None:
    refused(ann.post("/v1/renders", json={"prompt": "a star", "model": "toy"} | change), says)


@pytest.mark.parametrize("name", ["not_before", "window"])
def test_a_schedules_render_has_no_times_of_its_own(ann: httpx.Client, name: str) -> None:
    render = {"prompt": "a", "model": "toy", name: {"not_before": "2036-12-01 02:00", "window": "01:00-05:00"}[name]}
    refused(ann.post("/v1/schedules", json={"name": "w", "cron": "@daily", "render": render}), f"render.{name}: not")
