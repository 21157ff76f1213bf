"""The page over HTTP: every view, whose it is, whose forms are read, and what prompts and labels cannot do to it."""

import hashlib
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from scheduler.api.page.words import command_line
from scheduler.cli.main import cli
from storage.access.keys import Keys, Limits, Role
from storage.renders.views import RenderView
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
VIEWS = ("/", "/renders", "/submit", "/workers", "/usage", "/schedules", "/login")
ADMINS_VIEWS = ("/faults", "/keys")
#: As npm has it: version 2.0.11 of htmx.org.
HTMX_SHA256 = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
ODD = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "a \u202eright-to-left\u202c star",
    "{{ 7 * 7 }} {% raw %}",
    "</textarea></title></style>",
    "a star & a &lt;moon&gt;",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("page") / "home") as stage:
        yield stage


@contextmanager
def visitor(stage: Stage, owner: str | None = None, role: Role = Role.SUBMIT) -> Iterator[httpx.Client]:
    """A browser; one of an owner has logged in."""
    with httpx.Client(base_url=stage.address, headers=HTML, timeout=90) as client:
        if owner is not None:
            log_in(
                client, Keys(stage.services.database).create(name="page", owner=owner, role=role, limits=Limits())[1]
            )
        yield client


def log_in(client: httpx.Client, key: str, leads_to: str = "/") -> httpx.Response:
    return client.post("/login/send", data={"form_token": token(client, "/login"), "key": key, "next": leads_to})


@pytest.fixture
def ann(stage: Stage) -> Iterator[httpx.Client]:
    with visitor(stage, "ann") as client:
        yield client


@pytest.fixture
def admin(stage: Stage) -> Iterator[httpx.Client]:
    with visitor(stage, "eve", Role.ADMIN) as client:
        yield client


def token(client: httpx.Client, path: str = "/submit") -> str:
    found = re.search(r'name="form_token" value="([\w-]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def rendered(stage: Stage, client: httpx.Client, **asked: Any) -> str:
    """The id of a render that is done."""
    del client
    answer = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny", **asked})
    assert answer.status_code == 202, answer.text
    render_id = str(answer.json()["id"])
    eventually(lambda: stage.context.views.render(render_id).finished, "it is rendered")
    return render_id


class Page(HTMLParser):
    """What a browser makes of a page: elements, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def is_harmless(self) -> None:
        """Nothing of it is script or style but the farm's own files, and nothing of it comes from elsewhere."""
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
            assert tag not in ("style", "iframe", "object", "embed", "base"), tag
            if tag == "script":
                assert attributes["src"] in ("/assets/htmx.min.js", "/assets/live.js")
            for name in ("src", "href", "action", "formaction"):
                assert str(attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
                assert not str(attributes.get(name) or "").startswith("//"), (tag, attributes)


def test_every_view_is_a_page_that_asks_nobody_else(ann: httpx.Client, admin: httpx.Client, stage: Stage) -> None:
    render = rendered(stage, ann)
    of_a_render = (f"/renders/{render}", f"/pictures/{render}-000000", f"/submit?from={render}-000000")
    for client, paths in ((ann, (*VIEWS, *of_a_render)), (admin, (*VIEWS, *ADMINS_VIEWS, *of_a_render))):
        for path in paths:
            answer = client.get(path)
            assert (path, answer.status_code) == (path, 200)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            Page(answer.text).is_harmless()
            assert len(answer.content) < 100_000


def test_programs_still_get_the_welcome_at_the_first_address(stage: Stage) -> None:
    assert stage.keyless().get("/", headers={"Accept": "*/*"}).json()["documentation"] == "/docs"


def test_whoever_has_not_logged_in_is_led_to_where_they_wanted(stage: Stage) -> None:
    with visitor(stage) as client:
        for path in ("/", "/renders?state=done", "/submit", "/keys", "/pictures/abc-000000"):
            answer = client.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/login")
        answer = log_in(client, stage.key, leads_to="/renders?state=done")
        assert (answer.status_code, answer.headers["location"]) == (303, "/renders?state=done")
        [session] = [one for one in answer.headers.get_list("set-cookie") if one.startswith("farm_session=")]
        assert "HttpOnly" in session
        assert "SameSite=lax" in session
        assert stage.key.rpartition("_")[2] not in session
        assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "leads_to", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_a_login_leads_to_no_other_place(stage: Stage, leads_to: str) -> None:
    with visitor(stage) as client:
        assert log_in(client, stage.key, leads_to).headers["location"] == "/"


def test_a_wrong_key_logs_nobody_in(stage: Stage) -> None:
    with visitor(stage) as client:
        for key in ("", "farm_x", stage.key[:-1] + "x", "ключ"):
            answer = log_in(client, key)
            assert answer.status_code == 403
            assert "unknown, expired or revoked" in answer.text
            assert "farm_session" not in client.cookies


def test_a_login_that_was_made_up_is_none(stage: Stage, ann: httpx.Client) -> None:
    session = ann.cookies["farm_session"]
    key_id, until, rest = session.split(".", 2)
    for made_up in (f"{key_id}.{int(until) + 1}.{rest}", session[:-1], "x", "....", "a.b.c.d", "ü"):
        with visitor(stage) as client:
            headers = {"Cookie": f"farm_session={made_up}".encode()}
            assert client.get("/", headers=headers).status_code == 303


def test_logging_out_ends_it(ann: httpx.Client) -> None:
    assert ann.post("/logout", data={"form_token": token(ann)}).headers["location"] == "/login"
    assert ann.get("/").status_code == 303


def test_a_form_is_read_only_from_who_got_it(stage: Stage, ann: httpx.Client, admin: httpx.Client) -> None:
    render = rendered(stage, ann, n=2)
    paths = [f"/renders/{render}/{what}" for what in ("on-hold", "off-hold", "retry", "cancel", "delete")]
    paths += [f"/pictures/{render}-000000/{what}" for what in ("again", "vary", "cancel", "delete")]
    before = len(stage.context.views.renders(limit=1000))
    for path in paths:
        for data in ({}, {"form_token": ""}, {"form_token": token(admin)}):
            assert ann.post(path, data=data).status_code == 403
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert ann.post(path, data={"form_token": token(ann)}, headers=elsewhere).status_code == 403
    assert len(stage.context.views.renders(limit=1000)) == before
    # The cookie alone changes nothing over the API either, and reads what its key reads.
    assert ann.post("/v1/renders", json={"prompt": "a star"}).status_code == 401
    assert ann.delete(f"/v1/renders/{render}").status_code == 401
    assert ann.get(f"/v1/renders/{render}").json()["id"] == render


def test_nothing_of_another_owner_is_shown(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, prompt="a secret of ann", name="anns-render", labels={"whose": "anns-label"})
    seen = []
    with visitor(stage, "ben") as ben:
        for path in (*VIEWS, "/renders?model=tiny", "/renders?name=anns-render", "/renders?label=whose=anns-label"):
            answer = ben.get(path)
            assert answer.status_code == 200
            seen.append(answer.text.replace('value="anns-render"', "").replace('value="whose=anns-label"', ""))
        assert ben.get("/renders?owner=ann").status_code == 403
        for path in (f"/renders/{render}", f"/pictures/{render}-000000", f"/pictures/{render}-000000/file"):
            answer = ben.get(path)
            assert answer.status_code == 404
            # The same as of one that there never was.
            never = ben.get(path.replace(render, "zzzzzzzzzzzz"))
            assert answer.text.replace(render, "zzzzzzzzzzzz") == never.text
            seen.append(answer.text)
        data = {"form_token": token(ben)}
        for path in (f"/renders/{render}/cancel", f"/renders/{render}/delete", f"/pictures/{render}-000000/again"):
            assert ben.post(path, data=data).status_code == 404
        for path in ADMINS_VIEWS:
            assert ben.get(path).status_code == 403
        assert ben.get("/v1/backlog").json() == []
    for text in seen:
        assert "secret of ann" not in text
        assert "anns-" not in text
        assert ">ann<" not in text
    assert stage.context.views.render(render).done == 1


def test_a_reader_gets_no_buttons_and_may_press_none(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    with visitor(stage, "ann", Role.READ) as reader:
        page = reader.get(f"/renders/{render}").text
        assert "/delete" not in page
        found = re.search(r'name="form_token" value="([\w-]+)"', page)
        assert found is not None
        assert reader.post(f"/renders/{render}/delete", data={"form_token": found[1]}).status_code == 403


@pytest.mark.parametrize("odd", ODD)
def test_what_people_write_stays_text(stage: Stage, ann: httpx.Client, odd: str) -> None:
    # Of a note, invisible characters are refused at the door.
    note = {} if "\u202e" in odd else {"note": odd}
    labels = {"onload": odd, odd: "x", "src": "javascript:alert(1)"}
    render = rendered(stage, ann, prompt=odd, labels=labels, custom_id=odd, **note)
    for path in (f"/renders/{render}", f"/pictures/{render}-000000", f"/submit?from={render}-000000"):
        page = Page(ann.get(path).text)
        page.is_harmless()
        assert odd in page.text or odd in [one.get("value") for _, one in page.elements]
    asked = ann.get(f"/renders/{render}", params={"prompt": odd[:100], "label": f"onload={odd}"})
    Page(asked.text).is_harmless()
    assert f"/pictures/{render}-000000" in asked.text


def test_pictures_are_found_by_state_prompt_model_label_and_seed(stage: Stage, ann: httpx.Client) -> None:
    body = {"prompt": ["a Red star", "a green 100% star"], "seed": 7, "n": 2}
    render = rendered(stage, ann, **body)

    def found(**asked: Any) -> list[int]:
        text = ann.get(f"/renders/{render}", params=asked).text
        return [int(index) for index in re.findall(rf'href="/pictures/{render}-(\d+)"', text)]

    assert found() == [0, 1, 2, 3]
    assert found(prompt="rED") == [0, 1]
    assert found(prompt="100%") == [2, 3]
    assert found(prompt="1_0%") == []
    assert found(state="done", model="tiny", prompt="", seed="", label="") == [0, 1, 2, 3]
    assert found(model="toy") == []
    assert found(seed="8") == [1]
    assert found(state="failed") == []
    assert "No picture is like that" in ann.get(f"/renders/{render}?state=failed").text
    assert ann.get(f"/renders/{render}?state=nonsense").status_code == 422
    assert ann.get(f"/renders/{render}?colour=red").status_code == 422
    assert ann.get(f"/renders/{render}?label=nonsense").status_code == 422


def test_thousands_of_pictures_come_in_pages(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, n=130)
    path: str | None = f"/renders/{render}"
    seen: list[int] = []
    while path is not None:
        text = ann.get(path).text
        seen += [int(index) for index in re.findall(rf'href="/pictures/{render}-(\d+)"', text)]
        following = re.search(r'id="next" href="([^"]+)"', text)
        path = following[1].replace("&amp;", "&") if following else None
    assert seen == list(range(130))


def filled(client: httpx.Client, **fields: str) -> dict[str, str]:
    text = client.get("/submit").text
    once = re.search(r'name="once" value="([^"]+)"', text)
    assert once is not None
    return {"form_token": token(client), "once": once[1], "model": "tiny", "read_as": "one", **fields}


def sent(client: httpx.Client, form: dict[str, str]) -> httpx.Response:
    return client.post("/submit/send", data=form)


def checked(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found = re.search(r'name="checked" value="(\w+)"', answer.text)
    assert found is not None
    return found[1]


def test_a_form_is_checked_before_it_is_sent_and_accepted_once(stage: Stage, ann: httpx.Client) -> None:
    before = len(stage.context.views.renders(limit=1000, owner="ann"))
    form = filled(ann, prompt="a red star\r\na blue star", read_as="lines", n="2", seed="5", guidance_scale="3.5")
    answer = sent(ann, form)
    assert "4 pictures with tiny" in answer.text
    assert len(stage.context.views.renders(limit=1000, owner="ann")) == before
    form["checked"] = checked(answer)
    # What was changed since is checked again.
    assert "6 pictures with tiny" in sent(ann, form | {"n": "3"}).text
    first, again = sent(ann, form), sent(ann, form)
    assert first.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    jobs = list(stage.context.views.jobs(first.headers["location"].rpartition("/")[2]))
    assert [job.spec.prompt for job in jobs] == ["a red star"] * 2 + ["a blue star"] * 2
    assert {job.spec.guidance_scale for job in jobs} == {3.5}
    assert [job.spec.seed for job in jobs][:2] == [5, 6]


def test_remarks_are_seen_before_it_is_sent(ann: httpx.Client) -> None:
    answer = sent(ann, filled(ann, prompt="a star", guidance_scale="1", negative_prompt="blurry"))
    assert "ignores it" in Page(answer.text).text


def test_a_prompt_file_is_sent_with_the_form(stage: Stage, ann: httpx.Client) -> None:
    form = filled(ann)
    answer = ann.post("/submit/send", data=form, files={"prompt_file": ("rows.txt", b"a star\na moon\n")})
    assert "2 pictures with tiny" in answer.text
    kept = re.search(r'name="manifest" value="(file-\w+)"', answer.text)
    assert kept is not None
    answer = sent(ann, form | {"manifest": kept[1], "checked": checked(answer)})
    jobs = stage.context.views.jobs(answer.headers["location"].rpartition("/")[2])
    assert [job.spec.prompt for job in jobs] == ["a star", "a moon"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ""}, "prompt: missing"),
        ({"prompt": "a star", "width": "65"}, "width: must be a multiple of 8"),
        ({"prompt": "a star", "num_inference_steps": "many"}, "num_inference_steps"),
        ({"prompt": "a star", "seed": "-1"}, "seed"),
        ({"prompt": "a star", "sampler": "Magic"}, "is not a sampler"),
        ({"prompt": "a star", "model": "nope"}, "nope"),
        ({"prompt": "a star", "priority": "now"}, "priority"),
        ({"prompt": "a {star", "read_as": "template"}, "templates"),
        ({"prompt": "a star", "manifest": "file-000000000000000000000000"}, "empty one of them"),
    ],
)
def test_what_is_wrong_is_said_in_the_form_which_keeps_what_was_written(
    ann: httpx.Client, fields: dict[str, str], words: str
) -> None:
    answer = sent(ann, filled(ann, note="remember <me>", **fields))
    assert answer.status_code in (404, 422), answer.text
    page = Page(answer.text)
    assert words in page.text
    assert "remember <me>" in page.text


def test_a_prompt_of_two_megabytes_comes_back_with_a_word(ann: httpx.Client) -> None:
    answer = sent(ann, filled(ann, prompt="<b>star</b> " * 180_000))
    assert answer.status_code == 422
    assert "at most 10000 characters" in answer.text
    Page(answer.text[:3000]).is_harmless()


def test_a_picture_is_made_again_varied_and_edited(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann, negative_prompt="blurry", loras={"ink": 0.5}, seed=11, sampler="euler")
    first = next(stage.context.views.jobs(render)).spec
    data = {"form_token": token(ann)}

    def specs(answer: httpx.Response) -> list[Any]:
        assert answer.status_code == 303, answer.text
        return [job.spec for job in stage.context.views.jobs(answer.headers["location"].rpartition("/")[2])]

    assert specs(ann.post(f"/pictures/{render}-000000/again", data=data)) == [first]
    varied = specs(ann.post(f"/pictures/{render}-000000/vary", data={**data, "n": "3"}))
    assert len({one.seed for one in varied} - {11}) == 3
    assert {one.model_copy(update={"seed": 11}).canonical() for one in varied} == {first.canonical()}
    # Edited in nothing, it is the same again.
    page = Page(ann.get(f"/submit?from={render}-000000").text)
    form = {str(one["name"]): one.get("value") or "" for tag, one in page.elements if tag == "input" and "name" in one}
    form |= filled(ann, prompt="a star", negative_prompt="blurry", sampler="Euler")
    answer = sent(ann, form)
    assert specs(sent(ann, form | {"checked": checked(answer)})) == [first]


def test_the_command_that_is_shown_makes_the_picture(stage: Stage, ann: httpx.Client) -> None:
    asked = {"prompt": '-- it\'s "a star" $HOME', "negative_prompt": "a 'b'", "loras": {"ink": 0.5}, "seed": 3}
    render = rendered(stage, ann, sampler="dpm++ 2m", clip_skip=1, **asked)
    spec = next(stage.context.views.jobs(render)).spec
    words = shlex.split(command_line(spec.fields()))
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    command = [words[1], "--no-wait", "--json", *words[2:]]
    result = CliRunner().invoke(cli, command, env=environment, standalone_mode=False)
    assert result.exception is None, result.output
    newest = stage.context.views.renders(limit=1, owner="ann")[0]
    assert next(stage.context.views.jobs(newest.id)).spec == spec


def test_a_picture_whose_object_is_gone_and_a_render_that_is_deleted_say_so(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    job = next(stage.context.views.jobs(render))
    stage.services.objects.delete(str(job.object))
    assert ann.get(f"/pictures/{render}-000000").status_code == 200
    assert ann.get(f"/pictures/{render}-000000/file").status_code == 404
    answer = ann.post(f"/renders/{render}/delete", data={"form_token": token(ann)})
    assert answer.headers["location"] == "/"
    assert "is deleted" in ann.get("/").text
    assert "is deleted" not in ann.get("/").text
    for path in (f"/renders/{render}", f"/pictures/{render}-000000"):
        answer = ann.get(path)
        assert answer.status_code == 404
        assert "<h1>Not Found</h1>" in answer.text


def test_a_revoked_key_ends_its_logins_at_once(stage: Stage) -> None:
    key, secret = Keys(stage.services.database).create(name="page", owner="dan", role=Role.SUBMIT, limits=Limits())
    with visitor(stage) as dan:
        log_in(dan, secret)
        assert dan.get("/").status_code == 200
        Keys(stage.services.database).revoke(key.id)
        assert dan.get("/").headers["location"] == "/login"
        # A page that is open is led there as a whole.
        answer = dan.get("/", headers={"HX-Request": "true"})
        assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_two_tabs_that_hold_and_release_end_as_the_last_one_said(stage: Stage, ann: httpx.Client) -> None:
    stage.working.clear()
    try:
        render = stage.client().post("/v1/renders", json={"prompt": "a star", "model": "tiny"}).json()["id"]
        data = {"form_token": token(ann)}

        def now() -> RenderView:
            return stage.context.views.render(render)

        for what, held in (("on-hold", True), ("on-hold", True), ("off-hold", False), ("off-hold", False)):
            assert ann.post(f"/renders/{render}/{what}", data=data).status_code == 303
            assert now().held is held
        priority = {**data, "priority": "bulk"}
        assert ann.post(f"/renders/{render}/priority", data=priority).status_code == 303
        assert "bulk" in ann.get(f"/renders/{render}").text
        shown = ann.get("/").text
        assert "1 picture left" in shown
        assert ann.post(f"/renders/{render}/cancel", data=data).status_code == 303
        assert (
            "Nothing was left to cancel" in ann.post(f"/renders/{render}/cancel", data=data, follow_redirects=True).text
        )
    finally:
        stage.working.set()


def test_what_is_left_is_told_in_time_and_by_owner_to_an_admin(
    stage: Stage, ann: httpx.Client, admin: httpx.Client
) -> None:
    rendered(stage, ann)
    stage.working.clear()
    try:
        body = {"prompt": "a star", "n": 3, "model": "tiny", "priority": "bulk"}
        render = stage.client().post("/v1/renders", json=body).json()["id"]
        [mine] = ann.get("/v1/backlog").json()
        assert (mine["owner"], mine["priority"], mine["models"], mine["pictures"]) == ("ann", "bulk", ["tiny"], 3)
        # Nobody serves it here.
        assert mine["seconds_left"] is None
        assert mine in [one | {"oldest_wait": mine["oldest_wait"]} for one in admin.get("/v1/backlog").json()]
        stage.context.jobs.cancel(render)
    finally:
        stage.working.set()


def test_keys_are_made_by_admins_shown_once_and_revoked(stage: Stage, admin: httpx.Client) -> None:
    form = {"form_token": token(admin), "name": "for <gil>", "owner": "gil", "role": "submit", "queued": "7"}
    answer = admin.post("/keys/make", data=form)
    found = re.search(r"farm_[0-9a-z]{12}_[\w-]{43}", answer.text)
    assert found is not None
    Page(answer.text).is_harmless()
    assert found[0] not in admin.get("/keys").text
    key = Keys(stage.services.database).find(found[0])
    assert key is not None
    assert (key.owner, key.role, key.limits.queued, key.limits.per_day) == ("gil", Role.SUBMIT, 7, None)
    for wrong in (
        {"queued": "0"},
        {"queued": "many"},
        {"owner": "a b"},
        {"days": "soon"},
        {"role": "king"},
        {"name": ""},
    ):
        assert admin.post("/keys/make", data=form | wrong).status_code == 422
    admin.post(f"/keys/{key.id}/revoke", data={"form_token": token(admin)})
    assert Keys(stage.services.database).find(found[0]) is None
    with visitor(stage, "ann") as ann:
        for path in ("/keys/make", f"/keys/{key.id}/revoke", "/workers/x/end-quarantine"):
            data = {"form_token": token(ann)} | (
                {"name": "x", "owner": "ann", "role": "admin"} if "make" in path else {}
            )
            assert ann.post(path, data=data).status_code == 403
    assert stage.client().get("/v1/keys").status_code == 403
    assert stage.client().post("/v1/keys", json={"name": "x", "owner": "x", "role": "admin"}).status_code == 403


def test_schedules_are_shown_paused_and_run(stage: Stage, ann: httpx.Client) -> None:
    body = {"name": "anns-own", "cron": "0 2 * * *", "render": {"prompt": "a <b>star</b>", "model": "tiny"}}
    assert stage.client().post("/v1/schedules", json=body).status_code == 201
    data = {"form_token": token(ann)}
    assert "a &lt;b&gt;star&lt;/b&gt;" in ann.get("/schedules/anns-own").text
    ann.post("/schedules/anns-own/stop", data=data)
    assert "paused" in ann.get("/schedules").text
    ann.post("/schedules/anns-own/resume", data=data)
    assert "paused" not in ann.get("/schedules").text
    answer = ann.post("/schedules/anns-own/run", data=data)
    assert answer.headers["location"].startswith("/renders/")
    assert "fired" in ann.get("/schedules/anns-own").text
    with visitor(stage, "ben") as ben:
        assert ben.get("/schedules/anns-own").status_code == 404
        assert "anns-own" not in ben.get("/schedules").text


def test_htmx_is_the_one_that_npm_has_with_its_licence() -> None:
    folder = files("scheduler.api.page").joinpath("assets")
    assert hashlib.sha256(folder.joinpath("htmx.min.js").read_bytes()).hexdigest() == HTMX_SHA256
    assert "Zero-Clause BSD" in folder.joinpath("htmx.LICENSE").read_text()


def test_assets_are_those_that_pages_use(stage: Stage) -> None:
    for name in ("style.css", "live.js", "htmx.min.js", "icon.svg"):
        assert stage.keyless().get(f"/assets/{name}").status_code == 200
    for name in ("htmx.LICENSE", "../serving.py", "..%2Fserving.py", "x"):
        assert stage.keyless().get(f"/assets/{name}").status_code == 404


def test_without_keys_the_page_is_for_this_machine_alone(tmp_path: Path) -> None:
    with running_stage(tmp_path / "home", keyed=False) as stage, visitor(stage) as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "farm.example"}).status_code == 403
        assert client.get("/", headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 303
        data = {"form_token": token(client), "name": "first", "owner": "ann", "role": "admin"}
        assert client.post("/keys/make", data={**data, "form_token": "x"}).status_code == 403
        assert "everybody needs a key" in client.post("/keys/make", data=data).text
        eventually(lambda: client.get("/").status_code == 303, "the farm is closed")
