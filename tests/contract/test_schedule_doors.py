"""Schedules over HTTP: made, looked into, changed; what cannot be meant is refused by its field."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from storage.renders.firings import Firings
from storage.renders.schedules import FiringOutcome, Schedules
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
    assert ann.post(f"/v1/renders/{made['id']}/release").json()["state"] != "held"


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


# -- looked into, edited ---------------------------------------------------------------------------------------


def test_a_schedule_is_edited_in_part_and_its_history_stays(ann: httpx.Client) -> None:
    add(ann, "edited", cron="@yearly", limits={"pictures": 5, "pictures_per_day": 50})
    ann.post("/v1/schedules/edited/run-now")
    asked = {"cron": "0 3 * * *", "timezone": "Europe/Paris", "window": "02:00-04:00", "limits": {"pictures": None}}
    made = ann.patch("/v1/schedules/edited", json=asked)
    assert made.status_code == 200, made.text
    shown = made.json()
    assert (shown["cron"], shown["window"], shown["priority"]) == ("0 3 * * *", "02:00-04:00", "normal")
    assert (shown["limits"]["pictures"], shown["limits"]["pictures_per_day"]) == (None, 50)
    assert (len(shown["next_times"]), [one["note"] for one in shown["history"]]) == (5, ["by hand"])
    assert not any(remark.startswith("timezone") for remark in shown["remarks"])
    again = ann.get("/v1/schedules/edited").json()
    changing = {"order", "history"}  # the pace that was measured; the render's state
    assert {**shown, **dict.fromkeys(changing)} == {**again, **dict.fromkeys(changing)}
    gone = ann.patch("/v1/schedules/edited", json={"window": None, "limits": None, "priority": "bulk"}).json()
    assert (gone["window"], gone["limits"]["pictures_per_day"], gone["priority"]) == (None, None, "bulk")


def test_prompts_and_the_model_are_changed(ann: httpx.Client) -> None:
    add(ann, "prompts", cron="@yearly", overlap="queue")
    shown = ann.patch("/v1/schedules/prompts", json={"model": "tiny"}).json()
    assert (shown["order"]["models"], shown["order"]["prompts"]) == (["tiny"], ["a star"])
    render = {"prompt": ["a circle", "a square"], "model": "toy", "seed": 7}
    shown = ann.patch("/v1/schedules/prompts", json={"render": render}).json()
    assert (shown["order"]["prompts"], shown["pictures"], shown["seeds"]) == (["a circle", "a square"], 2, "same")
    render_id = ann.post("/v1/schedules/prompts/run-now").json()["render_id"]
    jobs = ann.get(f"/v1/renders/{render_id}/jobs").json()["jobs"]
    assert [(job["prompt"], job["seed"], job["model"]) for job in jobs] == [
        ("a circle", 7, "toy"),
        ("a square", 8, "toy"),
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "nothing to change"),
        ({"cron": "0 25 * * *"}, "cron: '0 25"),
        ({"at": "2026-01-01 02:00"}, "is past"),
        ({"model": "nope"}, "nope"),
        ({"model": "toy", "render": {"prompt": "a"}}, "model: given beside render"),
        ({"render": {"prompt": "a", "dry_run": True}}, "render.dry_run"),
        ({"name": "another"}, "name"),
    ],
)
def test_an_edit_that_cannot_be_meant_changes_nothing(ann: httpx.Client, change: dict[str, Any], says: str) -> None:
    if ann.get("/v1/schedules/same").status_code == 404:
        add(ann, "same", cron="@yearly")
    before = ann.get("/v1/schedules/same").json()
    refused(ann.patch("/v1/schedules/same", json=change), says)
    after = ann.get("/v1/schedules/same").json()
    for shown in (before, after):
        del shown["order"]["device_seconds"]  # pictures of other tests may be finished meanwhile
    assert after == before


@pytest.mark.parametrize("name", ["..%2Fetc", "a%2Fb", "-", "%20"])
def test_no_schedule_has_such_a_name(ann: httpx.Client, name: str) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        body = {"json": {"priority": "bulk"}} if method == "PATCH" else {}
        assert ann.request(method, f"/v1/schedules/{name}", **body).status_code in (404, 405, 422)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source", ["/etc/passwd", "file:///etc/passwd", "s3://secrets/keys.txt", "s3://prompts-of-others/a.txt", "s3://"]
)
def test_the_api_reads_no_prompts_but_where_the_farm_allows_it(
    ann: httpx.Client, stage: Stage, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowing = stage.services.settings.model_copy(update={"prompt_sources": "s3://prompts"})
    monkeypatch.setitem(stage.services.__dict__, "settings", allowing)
    asked = {"name": "reads", "cron": "@daily", "render": {"prompts_at_firing": source, "model": "toy"}}
    refused(ann.post("/v1/schedules", json=asked), "prompts_at_firing")
    both = {"prompts_at_firing": "s3://prompts/a.txt", "prompt": "a"}
    refused(ann.post("/v1/schedules", json=asked | {"render": both}), "not together with prompt")


@pytest.fixture
def idle(stage: Stage) -> Iterator[Stage]:
    """Nobody renders."""
    stage.working.clear()
    yield stage
    stage.working.set()
    stage.changed.set()


@pytest.mark.usefixtures("idle")
def test_running_one_now_accepts_its_render_in_the_call_and_says_what_that_waits_for(ann: httpx.Client) -> None:
    add(ann, "now", cron="@yearly")
    fired = ann.post("/v1/schedules/now/run-now").json()
    assert (fired["outcome"], fired["note"]) == ("fired", "by hand")
    assert fired["why"].startswith("no worker runs")
    followed = ann.get(f"/v1/renders/{fired['render_id']}").json()
    assert (followed["state"], followed["total"]) == ("waiting", 1)


def test_one_that_a_rule_keeps_from_running_now_says_which_whatever_the_clock_has_taken(
    ann: httpx.Client, idle: Stage
) -> None:
    add(ann, "busy", cron="@yearly")
    first = ann.post("/v1/schedules/busy/run-now").json()["render_id"]
    services = idle.services
    schedules = Schedules(services.database)
    due = {schedules.now() + 60: FiringOutcome.TAKEN}
    assert Firings(services.database, services.jobs).take(schedules.get("busy", owner="ann"), due)
    assert ann.post("/v1/schedules/busy/run-now").json() == {
        "name": "busy",
        "render_id": None,
        "outcome": "skipped",
        "note": f"render {first} was not finished",
        "why": None,
    }


def test_the_command_says_what_became_of_a_schedule_that_it_ran(ann: httpx.Client, idle: Stage) -> None:
    add(ann, "told", cron="@yearly")
    environment = {"FARM_HOME": str(idle.services.settings.home), "FARM_OWNER": "ann"}

    def run_now() -> str:
        return CliRunner().invoke(cli, ["schedule", "run-now", "told"], env=environment).output

    said = run_now()
    found = re.fullmatch(r"schedule told fired: render (\w+)\n(.*)", said, re.DOTALL)
    assert found is not None, said
    assert f"`farm watch {found[1]}`" in found[2]
    assert "it waits: no worker runs" in found[2]
    assert run_now() == f"schedule told did not fire: render {found[1]} was not finished\n"


def test_one_that_has_ended_is_not_run_now(ann: httpx.Client, stage: Stage) -> None:
    add(ann, "ended", at="2036-12-01 02:00")
    with stage.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE schedules SET decided_to = 2e12 WHERE name = 'ended'")
    refused(ann.post("/v1/schedules/ended/run-now"), "schedule ended has ended, its time was 2036-12-01 02:00 UTC")
    shown = ann.get("/v1/schedules/ended").json()
    assert (shown["ended"], shown["next_at"], shown["why"]) == (True, None, "it has ended: its time is past")


def test_the_agenda_tells_ones_own(stage: Stage) -> None:
    eve, bob = (stage.client(stage.new_key(owner)) for owner in ("eve", "bob"))
    add(eve, "hourly", cron="@hourly")
    found = eve.get("/v1/agenda", params={"days": 1}).json()
    assert {one["name"] for one in found["entries"]} == {"hourly"}
    assert len(found["entries"]) == 24
    assert bob.get("/v1/agenda").json()["entries"] == []
    assert eve.get("/v1/agenda", params={"days": 0}).status_code == 422
