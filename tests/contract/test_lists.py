"""Lists of renders and jobs: what narrows them, what renders are called, and `@`."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text, update

from scheduler.cli.main import cli
from storage.access.keys import Keys, Limits, Role
from storage.database.connection import Database
from storage.database.tables import renders
from storage.errors import InvalidInput, NotFound
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob, Submission
from storage.renders.filters import JobFilter, RenderFilter
from storage.renders.names import find_job, find_render
from storage.renders.views import Views, select_renders
from storage.rules.names import checked_name, checked_note
from storage.rules.states import RENDER_STATES, Priority, render_state
from tests.contract.renders import claim, complete, fail, pictures
from tests.contract.stage import Stage, running_stage

LABELS: list[dict[str, Any] | None] = [{"split": "train", "n": 4, "good": True}, {"split": "test", "share": 0.5}, None]


def submit(farm: Jobs, *, owner: str = "ann", model: str = "tiny", name: str | None = None, n: int = 1) -> str:
    new = [NewJob(spec=spec, labels=LABELS[at % 3]) for at, spec in enumerate(pictures(n, model=model))]
    submission = Submission(owner=owner, priority=Priority.NORMAL, name=name, note=name and f"on {name}")
    return farm.submit(new, submission, quanta={"tiny": 8, "other": 8})


def listed(database: Database, **which: Any) -> list[str]:
    """Oldest first."""
    return [one.id for one in Views(database).renders(which=RenderFilter(**which))][::-1]


def test_renders_are_narrowed_by_their_states(farm: Jobs, database: Database) -> None:
    done, failed = submit(farm), submit(farm)
    complete(farm, claim(farm, limit=1))
    fail(farm, claim(farm, limit=1).jobs[0], "black")
    cancelled, held = submit(farm), submit(farm)
    farm.cancel(cancelled)
    farm.hold(held)
    running, waiting = submit(farm, n=2), submit(farm)
    claim(farm, limit=1)
    expected = {"done": done, "failed": failed, "cancelled": cancelled, "held": held}
    expected |= {"running": running, "waiting": waiting}

    assert {state: listed(database, state=state) for state in RENDER_STATES} == {
        state: [render_id] for state, render_id in expected.items()
    }
    for state, render_id in expected.items():
        assert Views(database).render(render_id).state == state
    assert render_state(total=1, done=0, failed=0, cancelled=0) in RENDER_STATES


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_list_of_renders_does_not_read_all_jobs(farm: Jobs, database: Database) -> None:
    submit(farm)
    with database.read() as connection:
        statement = str(select_renders().compile(connection, compile_kwargs={"literal_binds": False}))
        plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))

    assert "SCAN jobs USING INDEX ix_jobs_leases" in plan or "SEARCH jobs USING INDEX ix_jobs_leases" in plan


def test_renders_are_narrowed_by_owner_model_and_time(farm: Jobs, database: Database) -> None:
    one, two, bobs = submit(farm, n=1200), submit(farm, model="other"), submit(farm, owner="bob", model="other")
    with database.write() as connection:
        connection.execute(update(renders).where(renders.c.id == one).values(created_at=1000.0))

    assert listed(database, owner="bob") == [bobs]
    assert listed(database, model="other") == [two, bobs]
    assert listed(database, model="tiny") == [one]
    assert listed(database, model="othe%") == listed(database, model="oth_r") == listed(database, model="ther") == []
    assert listed(database, owner="ann", model="other", since=1001.0) == [two]
    assert listed(database, since=1000.0) == [one, two, bobs]
    assert Views(database).render(one).models == ("tiny",)


def test_renders_and_jobs_are_narrowed_by_labels(farm: Jobs, database: Database) -> None:
    one, three = submit(farm, n=1), submit(farm, n=3)

    assert listed(database, labels={"split": "train"}) == [one, three]
    assert listed(database, labels={"split": "test"}) == [three]
    assert listed(database, labels={"n": "4", "good": "true"}) == [one, three]
    assert listed(database, labels={"share": "0.5", "split": "test"}) == [three]
    # No picture has both.
    assert listed(database, labels={"n": "4", "split": "test"}) == []
    for odd in ('split"', "$.split", "split'; --", "%", "good[0]", ""):
        assert listed(database, labels={odd: "train"}) == []
    found = Views(database).jobs(three, which=JobFilter(labels={"split": "test"}))
    assert [job.index for job in found] == [1]
    assert [job.index for job in Views(database).jobs(three, which=JobFilter(labels={"share": "0.5"}), after=1)] == []


def test_a_label_that_no_database_can_read_hides_no_other(farm: Jobs, database: Database) -> None:
    [spec] = pictures(1)
    odd = NewJob(spec=spec, labels={"split": "train", "x": "a\0", "y": {"z": [1]}})
    farm.submit([odd], Submission(owner="ann", priority=Priority.NORMAL), quanta={"tiny": 8})
    one = submit(farm)

    assert listed(database, labels={"split": "train"})[-1] == one
    assert listed(database, labels={"split": "none"}) == []


def test_filters_hold_on_every_page(farm: Jobs, database: Database) -> None:
    wanted = []
    for n in range(6):
        wanted.append(submit(farm, name="a"))
        submit(farm, name="b", owner="bob" if n % 2 else "ann")
    views, which = Views(database), RenderFilter(name="a")
    seen: list[str] = []
    after = None
    while page := [one.id for one in views.renders(limit=2, after=after, which=which)]:
        seen += page
        after = page[-1]

    assert seen == wanted[::-1]
    assert [one.id for one in views.renders(limit=3, before=wanted[2], which=which)] == wanted[:2:-1]


def test_a_name_means_the_newest_of_ones_own_or_of_the_only_owner(farm: Jobs, database: Database) -> None:
    views = Views(database)
    with pytest.raises(NotFound, match="@ is the last render of ann, and there is none"):
        find_render(views, "@", owner="ann")
    old, new, bobs = (submit(farm, name="cats", owner=owner) for owner in ("ann", "ann", "bob"))
    carols, bobs_dogs = submit(farm, name="dogs", owner="carol"), submit(farm, name="mice", owner="bob")

    assert find_render(views, "cats", owner="ann").id == new
    assert find_render(views, old, owner="ann").id == old
    assert find_render(views, "cats", owner="bob").id == bobs
    assert find_render(views, "dogs", owner="ann").id == carols
    assert find_render(views, "@", owner="ann").id == new
    assert find_render(views, "@", owner="bob").id == bobs_dogs
    assert find_job(views, "@-0", owner="ann").id == f"{new}-000000"
    with pytest.raises(InvalidInput, match="ann, bob have renders named 'cats'; give the id"):
        find_render(views, "cats", owner="carol")
    for nothing in ("cat", "Cats", "@@", "", "../cats", "cats%"):
        with pytest.raises(NotFound, match="no render with id or name"):
            find_render(views, nothing, owner="ann")
    with pytest.raises(NotFound):
        find_job(views, "@-7", owner="ann")
    assert (views.render(new).name, views.render(new).note) == ("cats", "on cats")


def test_an_id_comes_before_a_name(farm: Jobs, database: Database) -> None:
    first = submit(farm)
    submit(farm, name=first)

    assert find_render(Views(database), first, owner="ann").id == first


@pytest.mark.parametrize("name", ["cats", "Zürich 2026", "a", "v1.2: cats (final)", "猫", "x" * 100, "cats-1"])
def test_a_name_may_be(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a/b",
        "..\\a",
        "@",
        "@cats",
        "-rf",
        " cats",
        "cats ",
        "a\nb",
        "a\0",
        "x" * 101,
        "cats-000012",
        "a\u202eb",
    ],
)
def test_a_name_may_not_be(name: str) -> None:
    with pytest.raises(ValueError, match="^must "):
        checked_name(name)


def test_a_note_is_text() -> None:
    assert checked_note("two\nlines") == "two\nlines"
    for wrong in ("", " \n", "a\0", "\x1b[31m", "x" * 2001):
        with pytest.raises(ValueError, match="^must "):
            checked_note(wrong)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("lists") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def cats(stage: Stage) -> str:
    body = {"prompt": "a cat", "name": "cats", "note": "for Zoë", "custom_id": "mine", "labels": {"split": "train"}}
    render_id: str = stage.client().post("/v1/renders", json=body).json()["id"]
    stage.farm().wait(render_id)
    return render_id


def command(stage: Stage, *words: str, code: int = 0) -> Result:
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann", "COLUMNS": "400"}
    result = CliRunner().invoke(cli, words, env=environment)
    assert result.exit_code == code or isinstance(result.exception, InvalidInput), result.output
    return result


def told(stage: Stage, *words: str) -> Any:
    return json.loads(command(stage, *words, "--json").stdout)


def test_a_render_is_told_by_its_name_everywhere(stage: Stage, cats: str) -> None:
    from_api = stage.client().get(f"/v1/renders/{cats}").json()
    assert (from_api["name"], from_api["note"], from_api["models"]) == ("cats", "for Zoë", ["tiny"])
    assert stage.farm().get(cats).name == "cats"
    for called in (cats, "cats", "@"):
        assert told(stage, "status", called) == from_api
    status = command(stage, "status", "cats").output
    assert f"render {cats} (cats) of ann: done" in status
    assert "note: for Zoë" in status
    assert told(stage, "jobs", "@")[0]["id"] == f"{cats}-000000"
    assert told(stage, "recipe", "@-000000")["id"] == f"{cats}-000000"
    assert told(stage, "cancel", "cats")["id"] == told(stage, "hold", "@")["id"] == cats
    assert "no render with id or name 'dogs'" in str(command(stage, "status", "dogs").exception)


def test_a_list_and_jobs_tell_what_their_owner_said(stage: Stage, cats: str) -> None:
    heading, *lines = command(stage, "list", "--label", "split=train").output.splitlines()
    assert (heading.split()[-1], len(lines), lines[0].split()[0], lines[0].split()[-1]) == ("NAME", 1, cats, "cats")
    assert told(stage, "list", "--model", "tiny", "--owner", "ann", "--since", "1d", "--state", "done")[0]["id"] == cats
    assert told(stage, "list", "--label", "split=test") == told(stage, "list", "--since", "2999-01-01") == []
    heading, line = command(stage, "jobs", "cats").output.splitlines()
    assert heading.split()[-3:-1] == ["REMARKS", "CUSTOM_ID"]
    assert "mine" in line
    assert "split=train" in line
    assert told(stage, "jobs", "cats", "--label", "split=test") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "--label", "split"], "expected NAME=VALUE"),
        (["list", "--label", "a=1", "--label", "a=2"], "given twice"),
        (["list", "--since", "yesterday"], "expected such as 2d"),
        (["list", "--state", "lost"], "is not one of"),
        (["list", "-n", "0"], "not in the range"),
        (["render", "a cat", "--name", "a/b"], "--name: must be 1 to 100"),
        (["render", "a cat", "--name", "{index}-{seed}"], "`farm fetch RENDER --name` takes patterns"),
        (["render", "a cat", "--note", ""], "--note: must be text"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_right(stage: Stage, words: list[str], says: str) -> None:
    assert says in command(stage, *words, code=2).output


def test_a_model_that_is_not_registered_is_named(stage: Stage) -> None:
    assert "no model named 'tony'" in str(command(stage, "list", "--model", "tony").exception)


def test_lists_over_http_are_narrowed_and_bad_values_refused(stage: Stage, cats: str) -> None:
    client = stage.client()
    bobs = stage.client(stage.new_key("bob"))
    other = bobs.post("/v1/renders", json={"prompt": "a dog", "model": "toy", "name": "dogs"}).json()["id"]
    _, admin = Keys(stage.services.database).create(name="root", owner="root", role=Role.ADMIN, limits=Limits())

    def ids(who: Any, **parameters: str) -> list[str]:
        answer = who.get("/v1/renders", params=parameters)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["renders"]]

    for narrow in (
        {"owner": "ann"},
        {"state": "done", "name": "cats"},
        {"model": "tiny"},
        {"label": "split=train"},
        {"since": "2020-01-01T00:00:00Z"},
        {"since": "2020-01-01T00:00:00+01:00"},
        {"since": "1000000000"},
    ):
        assert cats in ids(client, **narrow), narrow
        assert other not in ids(client, **narrow)
    for nothing in ({"state": "held"}, {"model": "toy"}, {"label": "split=test"}, {"since": "2999-01-01T00:00:00Z"}):
        assert ids(client, **nothing) == []
    assert ids(stage.client(admin), owner="bob") == [other]
    assert bobs.get("/v1/renders", params={"owner": "ann"}).status_code == 403
    for wrong in (
        {"state": "lost"},
        {"since": "yesterday"},
        {"since": "2026-11-28T14:30:00"},
        {"since": "nan"},
        {"since": "-1"},
        {"label": "split"},
        {"label": "=x"},
        {"model": ""},
        {"owner": "a\0"},
        {"labels": "a=b"},
    ):
        assert client.get("/v1/renders", params=wrong).status_code == 422, wrong
    jobs = f"/v1/renders/{cats}/jobs"
    assert len(client.get(jobs, params={"label": "split=train", "state": "done"}).json()["jobs"]) == 1
    assert client.get(jobs, params={"label": "split=test"}).json() == {"jobs": [], "next": None}
    assert client.get(jobs, params={"label": "x"}).status_code == 422
    for field, value in (("name", "a/b"), ("name", "cats-000012"), ("name", ""), ("note", "\0"), ("note", " ")):
        refused = client.post("/v1/renders", json={"prompt": "a", field: value})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field), refused.text
