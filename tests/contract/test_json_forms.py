"""A render and a job as JSON: the same form, whoever tells of them."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scheduler.cli.main import cli
from scheduler.results.json_forms import JobForm, RenderForm
from storage.database.schedule_tables import schedules
from storage.events.log import EventKind
from storage.events.webhooks import Webhooks
from storage.renders.firings import Firings
from storage.renders.schedules import FiringOutcome
from storage.rules.states import State
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually

#: What an event has beside fields of the forms.
_OF_EVENTS = {"seq", "at", "time", "kind"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("forms") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def render_id(stage: Stage) -> str:
    """A render of two pictures, finished, with a webhook for everything."""
    webhook = {"url": "http://127.0.0.1:9/told", "events": [kind.value for kind in EventKind]}
    body = {"prompt": "a star", "n": 2, "custom_id": "mine", "labels": {"topic": "stars"}, "webhook": webhook}
    made: str = stage.client().post("/v1/renders", json=body).json()["id"]
    eventually(lambda: stage.services.views.render(made).finished, "the render is finished")
    return made


def command(stage: Stage, *words: str) -> Any:
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    result = CliRunner().invoke(cli, [*words, "--json"], env=environment, standalone_mode=False)
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def words(stage: Stage, *words: str) -> Result:
    """A command's words for people."""
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann", "COLUMNS": "200"}
    result = CliRunner().invoke(cli, words, env=environment, standalone_mode=False)
    assert result.exception is None, result.exception
    return result


def test_a_render_is_the_same_in_every_answer(stage: Stage, render_id: str) -> None:
    from_api = stage.client().get(f"/v1/renders/{render_id}").json()
    from_command = command(stage, "status", render_id)
    from_client = asdict(stage.farm().get(render_id))

    assert from_api.keys() == RenderForm.model_fields.keys()
    assert from_command == from_api
    assert {name: from_client[name] for name in from_api} == from_api
    listed = stage.client().get("/v1/renders").json()["renders"][0]
    assert command(stage, "status")[0] == listed
    assert {**from_api, "seconds_left": None} == listed


def test_a_job_is_the_same_in_every_answer(stage: Stage, render_id: str) -> None:
    alone = stage.client().get(f"/v1/jobs/{render_id}-000000").json()
    from_api = stage.client().get(f"/v1/renders/{render_id}/jobs").json()["jobs"]
    from_command = command(stage, "jobs", render_id)
    from_client = list(stage.farm().jobs(render_id))

    assert from_api[0].keys() == JobForm.model_fields.keys()
    assert from_api == from_command == from_client
    assert {**alone, "spec": None, "made_with": None} == from_api[0]


def test_events_and_webhooks_tell_by_the_names_and_values_of_the_forms(stage: Stage, render_id: str) -> None:
    render = stage.client().get(f"/v1/renders/{render_id}").json()
    jobs = {job["id"]: job for job in stage.farm().jobs(render_id)}
    told = [event for event in stage.farm().events(render_id) if event["kind"] != "progress"]
    messages = [json.loads(one.body) for one in Webhooks(stage.services.database).all(owner="ann")]

    assert {event["kind"] for event in told} == {"job.started", "job.done", "render.finished"}
    for event in told:
        form = render if event["kind"].startswith("render.") else jobs[event["id"]]
        fields = {name: value for name, value in event.items() if name not in _OF_EVENTS}
        assert fields == {name: form[name] for name in fields}
    plain = [{name: value for name, value in event.items() if name not in ("at", "time", "kind")} for event in told]
    assert sorted((one["data"] for one in messages), key=lambda data: data["seq"]) == plain


def test_every_time_is_there_as_text_too(stage: Stage, render_id: str) -> None:
    def check(told: dict[str, Any]) -> int:
        names = {name.removesuffix("at") for name in told if name == "at" or name.endswith("_at")}
        for name in names:
            moment, text = told[f"{name}at"], told[f"{name}time"]
            assert (moment is None) == (text is None)
            assert moment is None or datetime.fromisoformat(text).timestamp() == pytest.approx(moment, abs=1e-5)
        return len(names)

    stage.client().post("/v1/schedules", json={"name": "told", "cron": "@yearly", "render": {"prompt": "a star"}})
    stage.client().post("/v1/schedules/told/run-now")
    assert check(stage.client().get(f"/v1/renders/{render_id}").json()) == 2
    assert check(stage.client().get(f"/v1/jobs/{render_id}-000000").json()) == 2
    assert check(stage.client().get("/v1/schedules/told").json()) == 2
    assert check(stage.client().get("/v1/schedules/told/history").json()[0]) == 2
    assert {check(event) for event in stage.farm().events(render_id) if event["kind"] == "render.finished"} == {2}
    assert stage.client().delete("/v1/schedules/told").status_code == 204


def test_progress_is_a_render_with_the_share_of_each_picture(stage: Stage) -> None:
    stage.working.clear()
    try:
        made = stage.farm().submit("a star")
        progress = next(event for event in stage.farm().events(made) if event["kind"] == "progress")
        assert progress.keys() - {"kind", "jobs"} == RenderForm.model_fields.keys()
        assert (progress["id"], progress["state"], progress["jobs"]) == (made.id, "waiting", {})
        assert progress["why"] == "no worker runs; `farm up` starts one"
    finally:
        stage.working.set()


def test_it_is_news_that_a_waiting_render_is_on_a_device(stage: Stage) -> None:
    eventually(lambda: not stage.services.views.unfinished_jobs(), "nothing of other tests waits")
    stage.working.clear()
    try:
        made = stage.farm().submit("a star")
        progress = (event for event in stage.farm().events(made) if event["kind"] == "progress")
        assert next(progress)["state"] == "waiting"
        claim = stage.services.jobs.claim(model=str(made.models[0]), worker="w1", limit=1)
        assert claim is not None
        # Else one would wait for ever.
        assert [job.render_id for job in claim.jobs] == [made.id]
        running = next(progress)
        assert (running["state"], running["why"]) == ("running", None)
        stage.farm().cancel(made)
        progress.close()
    finally:
        stage.working.set()


def test_a_schedule_and_its_firings_are_the_same_in_every_answer(stage: Stage) -> None:
    body = {"name": "nightly", "cron": "@yearly", "render": {"prompt": "a star", "negative": "blue", "guidance": 1.0}}
    added = stage.client().post("/v1/schedules", json=body).json()
    assert command(stage, "schedule", "list") == stage.client().get("/v1/schedules").json() == [added]
    assert added["remarks"]

    stage.client().post("/v1/schedules/nightly/run-now")
    eventually(lambda: not stage.services.views.unfinished_jobs(), "its pictures are made")
    history = stage.client().get("/v1/schedules/nightly/history").json()
    assert command(stage, "schedule", "history", "nightly") == history
    assert [(one["outcome"], one["render_state"]) for one in history] == [("fired", State.DONE)]


def test_a_firing_that_is_being_accepted_is_told_as_such(stage: Stage) -> None:
    stage.client().post("/v1/schedules", json={"name": "slow", "cron": "@yearly", "render": {"prompt": "a star"}})
    schedule = stage.context.schedules.get("slow", owner="ann")
    clock = Firings(stage.services.database, stage.services.jobs)

    def told() -> tuple[str, str]:
        history = stage.client().get("/v1/schedules/slow/history").json()
        assert command(stage, "schedule", "history", "slow") == history
        return history[0]["outcome"], history[0]["note"]

    clock.take(schedule, {0.0: FiringOutcome.TAKEN})
    assert told() == ("taken", "waits for its turn")
    claimed = clock.claim(long=False)
    assert claimed is not None
    assert told() == ("taken", "being accepted")
    assert re.search(r"slow .* taken\n", words(stage, "schedule", "list").stdout)
    clock.give_back(claimed, note="the store is away", after_seconds=60)
    assert told() == ("taken", "the store is away")


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        ({"order": "{}"}, "the schedule was added by another version of the farm; remove it and add it again"),
        ({"timezone": "Europe/Atlantis"}, "'@yearly' in the time zone 'Europe/Atlantis' cannot be read here"),
        ({"cron": "now and then"}, "'now and then' in the time zone 'UTC' cannot be read here"),
    ],
    ids=["order", "time zone", "expression"],
)
def test_a_schedule_that_cannot_be_read_is_listed_beside_the_others_and_says_why(
    stage: Stage, spoiled: dict[str, str], says: str
) -> None:
    stage.client().post("/v1/schedules", json={"name": "bad", "cron": "@yearly", "render": {"prompt": "a star"}})
    with stage.services.database.write() as connection:
        connection.execute(schedules.update().where(schedules.c.name == "bad").values(**spoiled))

    listed = stage.client().get("/v1/schedules").json()
    assert command(stage, "schedule", "list") == listed
    [bad] = [one for one in listed if one["name"] == "bad"]
    assert says in " ".join(bad["remarks"])
    assert f"schedule bad cannot fire: {says}" in words(stage, "schedule", "list").output
    one = stage.client().get("/v1/schedules/bad").json()
    assert {name: one[name] for name in bad} == bad
    assert stage.client().delete("/v1/schedules/bad").status_code == 204
