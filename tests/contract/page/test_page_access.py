"""Who sees what of the page, and whose forms are read."""

import html
import re
from pathlib import Path

import httpx
import pytest

from storage.access.keys import Keys, Limits, Role
from tests.contract.event_streams import followed
from tests.contract.page.visitors import ADMINS_VIEWS, VIEWS, Page, log_in, rendered, token, visitor
from tests.contract.stage import Stage, running_stage
from tests.servers import eventually


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
            headers = {b"Cookie": f"farm_session={made_up}".encode()}
            assert client.get("/", headers=headers).status_code == 303


def test_logging_out_ends_it(ann: httpx.Client) -> None:
    assert ann.post("/logout", data={"form_token": token(ann)}).headers["location"] == "/login"
    assert ann.get("/").status_code == 303


def test_a_copied_cookie_ends_with_the_logout_and_other_logins_of_the_key_do_not(stage: Stage) -> None:
    key = stage.new_key()
    with visitor(stage) as one, visitor(stage) as other, visitor(stage) as thief:
        for client in (one, other):
            log_in(client, key)
        thief.cookies.set("farm_session", one.cookies["farm_session"])
        assert thief.get("/").status_code == 200
        one.post("/logout", data={"form_token": token(one)})
        assert thief.get("/").status_code == 303
        assert thief.get("/v1/renders").status_code == 401
        assert other.get("/").status_code == 200
        # Logged out twice, from a page that was open all the while.
        assert thief.post("/logout", data={"form_token": "x"}).status_code == 403


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
        pictures = (f"/pictures/{render}-000000", f"/pictures/{render}-000000/file")
        for path in (f"/renders/{render}", f"/renders/{render}/grid", *pictures):
            answer = ben.get(path)
            assert answer.status_code == 404
            # The same as of one that there never was.
            never = ben.get(path.replace(render, "zzzzzzzzzzzz"))
            assert answer.text.replace(render, "zzzzzzzzzzzz") == never.text
            seen.append(answer.text)
        of_a_job = (f"jobs/{render}-000000/thumbnail", f"jobs/{render}-000000/history")
        for address in (*of_a_job, f"renders/{render}/pictures.zip", f"renders/{render}/grid"):
            assert ben.get(f"/v1/{address}").status_code == 404
        data = {"form_token": token(ben)}
        for path in (f"/renders/{render}/cancel", f"/renders/{render}/delete", f"/pictures/{render}-000000/again"):
            assert ben.post(path, data=data).status_code == 404
        for path in ADMINS_VIEWS:
            assert ben.get(path).status_code == 403
        assert ben.get("/v1/backlog").json() == ben.get("/v1/device-time").json() == []
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
    for days in ("nan", "-1", "1e999"):
        # In the words of the form, not of what is made of it.
        assert "days: " in admin.post("/keys/make", data=form | {"days": days}).text
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


def test_without_keys_the_page_is_for_this_machine_alone(tmp_path: Path) -> None:
    with running_stage(tmp_path / "home", keyed=False) as stage, visitor(stage) as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "farm.example"}).status_code == 403
        assert client.get("/", headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 303
        data = {"form_token": token(client), "name": "first", "owner": "ann", "role": "admin"}
        answer = client.post("/keys/make", data=data)
        assert (answer.status_code, "farm keys create" in answer.text) == (403, True)
        assert client.post("/submit/send", data={"prompt": "a star", "form_token": "x"}).status_code == 403
        stage.new_key()
        eventually(lambda: client.get("/").status_code == 303, "the farm is closed")


def test_an_open_page_ends_with_its_key(stage: Stage) -> None:
    with visitor(stage, "ann") as client:
        text = client.get("/").text
        [address] = re.findall(r'data-events="([^"]+)"', text)
        with followed(client, html.unescape(address)) as stream:
            [key_id] = [client.cookies["farm_session"].split(".")[0]]
            Keys(stage.services.database).revoke(key_id)
            stream.ends()
        # A browser comes again, and then asks for the page once more.
        assert client.get(html.unescape(address)).status_code == 401
        answer = client.get("/", headers={"HX-Request": "true"})
        assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")


def test_a_logout_ends_what_copies_of_the_cookie_have_open(stage: Stage) -> None:
    """Streams of the farm and of a render; of another login of the same key they go on."""
    key = stage.new_key()
    asked = {"prompt": "a star", "model": "tiny", "not_before": "2100-01-01 00:00"}
    render = stage.client(key).post("/v1/renders", json=asked).json()["id"]
    with visitor(stage) as one, visitor(stage) as other, visitor(stage) as thief:
        for client in (one, other):
            log_in(client, key)
        thief.cookies.set("farm_session", one.cookies["farm_session"])
        of_render = f"/v1/renders/{render}/events"
        with followed(thief) as farm, followed(thief, of_render) as own, followed(other, of_render) as kept:
            one.post("/logout", data={"form_token": token(one)})
            farm.ends()
            own.ends()
            assert thief.get("/v1/events").status_code == 401
            stage.client(key).delete(f"/v1/renders/{render}")
            kept.until("render.finished")


def test_what_a_browser_keeps_of_a_picture_is_for_its_login_alone(stage: Stage, ann: httpx.Client) -> None:
    picture = f"{rendered(stage, ann)}-000000"
    for path in (f"/pictures/{picture}/file", f"/v1/jobs/{picture}/thumbnail"):
        headers = ann.get(path).headers
        assert headers["cache-control"].startswith("private")
        assert "Cookie" in headers["vary"]


def test_whoever_may_only_read_is_told_before_a_form_is_filled_in(stage: Stage) -> None:
    with visitor(stage, "ann", Role.READ) as reader:
        answer = reader.get("/submit")
        assert answer.status_code == 403
        assert "the role submit is required" in answer.text


def test_what_is_said_next_is_not_lost_on_a_part_of_another_page(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    ann.post(f"/renders/{render}/cancel", data={"form_token": token(ann)})
    assert "Nothing was left to cancel" not in ann.get("/", headers={"HX-Request": "true"}).text
    assert "Nothing was left to cancel" in ann.get(f"/renders/{render}").text
    assert "Nothing was left to cancel" not in ann.get(f"/renders/{render}").text


def test_a_wrong_address_is_a_page_to_a_browser_and_a_problem_to_a_program(stage: Stage, ann: httpx.Client) -> None:
    answer = ann.get("/render/<b>x")
    assert answer.status_code == 404
    Page(answer.text).is_harmless()
    assert "there is no GET /render/&lt;b&gt;x here" in answer.text
    assert 'href="/usage"' in answer.text
    program = {"Accept": "application/json"}
    assert ann.get("/render/x", headers=program).json()["code"] == "no_such_address"
    # Of somebody who has not logged in, too; nothing is told of who has.
    with visitor(stage) as stranger:
        assert 'href="/usage"' not in stranger.get("/render/x").text
    # The address of a form, asked for as a page, leads to the page that has it.
    for path, page in {
        "/submit/send": "/submit",
        "/login/send": "/login",
        "/keys/make": "/keys",
        "/logout": "/",
        "/renders/abc/cancel": "/renders/abc",
        "/workers/w/end-quarantine": "/workers",
    }.items():
        answer = ann.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, page)
        assert ann.get(path, headers=program).status_code == 405
    # Those of other protocols answer in their own form.
    assert "error" in ann.get("/sdapi/v1/nope").json()
