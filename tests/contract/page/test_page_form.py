"""Renders that are submitted by the page's form, and pictures that are made again."""

import html
import re
import shlex
import subprocess
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from scheduler.api.page.words import command_line
from scheduler.cli.main import cli
from tests.contract.page.visitors import Page, log_in, rendered, token, visitor
from tests.contract.stage import Stage


def filled(client: httpx.Client, **fields: str) -> dict[str, str]:
    text = client.get("/submit").text
    once = re.search(r'name="once" value="([^"]+)"', text)
    assert once is not None
    return {"form_token": token(client), "once": once[1], "model": "tiny", "read_as": "one", **fields}


def form_of(text: str) -> dict[str, str]:
    """What a browser would send of the form as it is."""
    start = text.index('<form class="order"')
    text = text[start : text.index("</form>", start)]
    fields = {}
    for tag, attributes in Page(text).elements:
        # A box that is not ticked is not sent.
        unsent = (
            "checked" not in attributes if attributes.get("type") == "checkbox" else attributes.get("type") == "file"
        )
        if tag == "input" and not unsent and (name := attributes.get("name")):
            fields[name] = attributes.get("value") or ""
    for name, value in re.findall(r'<textarea name="(\w+)"[^>]*>\n?(.*?)</textarea>', text, re.DOTALL):
        fields[name] = html.unescape(value)
    for name, options in re.findall(r'<select name="(\w+)"[^>]*>(.*?)</select>', text, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        assert chosen is not None
        fields[name] = html.unescape(chosen[1])
    return fields


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


def test_a_template_is_shown_with_its_combinations_and_what_they_take(stage: Stage, ann: httpx.Client) -> None:
    rendered(stage, ann)
    form = filled(ann, prompt="a {red|blue|<b>} {star|moon}\r\n\r\na plain one", read_as="template", n="2")
    text = Page(sent(ann, form).text).text
    assert "14 pictures with tiny" in text
    assert "a {red|blue|<b>} {star|moon}: 6 combinations" in text
    assert "a plain one: 1 combination" in text
    assert re.search(r"Device time: [\d.]+ s. Room in the store: about [\d.]+ (bytes|kB)", text)
    assert "a {red|blue|<b>} {star|moon}: 5 prompts drawn" in Page(sent(ann, form | {"random": "5"}).text).text
    body = {"templates": ["a {red|blue} star"], "dry_run": True, "model": "tiny"}
    told = stage.client().post("/v1/renders", json=body).json()
    assert (told["combinations"], told["total"]) == ([2], 2)
    assert told["bytes"] > 0
    assert told["device_seconds"] > 0
    # What nobody has rendered yet takes nobody knows how long.
    told = stage.client().post("/v1/renders", json={"prompt": "a star", "dry_run": True, "model": "weighted"}).json()
    assert (told["combinations"], told["bytes"], told["device_seconds"]) == (None, None, None)


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
        ({"prompt": "a star", "read_as": "a poem"}, "read_as: 'a poem' is not among one, lines, template"),
        ({"prompt": "a star", "sampler": "Magic"}, "is not a sampler"),
        ({"prompt": "a star", "model": "nope"}, "nope"),
        ({"prompt": "a star", "priority": "now"}, "priority"),
        ({"prompt": "a {star", "read_as": "template"}, "templates"),
        ({"prompt": "a star", "manifest": "file-000000000000000000000000"}, "leave out one of them"),
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


@pytest.mark.parametrize(
    "asked",
    [
        {"guidance_scale": 0, "seed": 0},
        {"guidance_scale": 3.123456789012, "seed": 2**53 + 1, "sampler": "ddim", "eta": 0.0},
        {"loras": {"ink": 0.123456789}},
        {"prompt": "  a star  ", "negative_prompt": "\nblurry, <b>\n"},
    ],
)
def test_a_picture_that_is_edited_in_nothing_stays_as_it_was(
    stage: Stage, ann: httpx.Client, asked: dict[str, Any]
) -> None:
    render = rendered(stage, ann, **{"prompt": "a star"} | asked)
    form = form_of(ann.get(f"/submit?from={render}-000000").text)
    answer = sent(ann, form | {"checked": checked(sent(ann, form))})
    [again] = stage.context.views.jobs(answer.headers["location"].rpartition("/")[2])
    assert again.spec == next(stage.context.views.jobs(render)).spec


def test_another_model_is_chosen_without_losing_what_was_written(ann: httpx.Client) -> None:
    form = filled(ann, prompt="a <star>", note="remember", width="65", model="weighted")
    answer = ann.post("/submit/send", data=form | {"look": "on"}, files={"prompt_file": ("rows.txt", b"a star\n")})
    assert answer.status_code == 200
    shown = form_of(answer.text)
    assert {name: shown[name] for name in ("model", "prompt", "note", "width")} == {
        name: form[name] for name in ("model", "prompt", "note", "width")
    }
    assert shown["manifest"].startswith("file-")
    assert "Not submitted" not in answer.text
    # What is chosen counts, whichever fields are shown.
    assert "1 picture with weighted" in sent(ann, filled(ann, prompt="a star", model="weighted")).text


def test_a_prompt_file_can_be_left_out_again(ann: httpx.Client) -> None:
    files = {"prompt_file": ("rows.txt", b"a star\na moon\n")}
    form = form_of(ann.post("/submit/send", data=filled(ann), files=files).text) | {"prompt": "a moon"}
    answer = sent(ann, form)
    assert "leave out one of them" in answer.text
    assert 'name="without_file"' in answer.text
    answer = sent(ann, form_of(answer.text) | {"without_file": "on"})
    assert "1 picture with tiny" in answer.text
    assert sent(ann, form_of(answer.text)).status_code == 303


def test_a_button_that_is_pressed_twice_does_once_what_it_says(stage: Stage, ann: httpx.Client) -> None:
    render = rendered(stage, ann)
    page = ann.get(f"/pictures/{render}-000000").text
    once = re.findall(r'name="once" value="([^"]+)"', page)
    assert len(once) == 2
    for what in ("again", "vary"):
        data = {"form_token": token(ann), "once": once[0]}
        places = [ann.post(f"/pictures/{render}-000000/{what}", data=data).headers["location"] for _ in range(2)]
        assert places[0] == places[1]
        # Of the page that is opened anew, it is another one.
        anew = ann.post(f"/pictures/{render}-000000/{what}", data=data | {"once": "another"}).headers["location"]
        assert anew != places[0]


def test_the_command_that_is_shown_makes_the_picture(stage: Stage, ann: httpx.Client) -> None:
    asked = {"prompt": '-- it\'s "a star" $HOME', "negative_prompt": "a 'b'", "loras": {"ink": 0.123456789}, "seed": 3}
    render = rendered(stage, ann, sampler="dpm++ 2m", clip_skip=1, **asked)
    spec = next(stage.context.views.jobs(render)).spec
    words = shlex.split(command_line(spec.fields()))
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    command = [words[1], "--no-wait", "--json", *words[2:]]
    result = CliRunner().invoke(cli, command, env=environment, standalone_mode=False)
    assert result.exception is None, result.output
    newest = stage.context.views.renders(limit=1, owner="ann")[0]
    assert next(stage.context.views.jobs(newest.id)).spec == spec


def test_a_prompt_that_commands_take_for_something_else_is_read_by_the_command_that_is_shown(
    stage: Stage, ann: httpx.Client
) -> None:
    render = rendered(stage, ann, prompt="-", seed=3)
    spec = next(stage.context.views.jobs(render)).spec
    said, bar, command = command_line(spec.fields()).partition(" | ")
    assert bar
    lines = subprocess.run(["bash", "-c", said], capture_output=True, text=True, check=True).stdout
    words = shlex.split(command)
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    result = CliRunner().invoke(
        cli, [words[1], "--no-wait", "--json", *words[2:]], env=environment, standalone_mode=False, input=lines
    )
    assert result.exception is None, result.output
    newest = stage.context.views.renders(limit=1, owner="ann")[0]
    assert next(stage.context.views.jobs(newest.id)).spec == spec


def test_a_form_that_is_sent_after_the_login_ended_is_kept_through_the_next_one(stage: Stage) -> None:
    key, long = stage.new_key("ann"), "a long prompt & a <b>star</b>, " * 50
    fields = {"prompt": long, "n": "3", "model": "tiny", "num_inference_steps": "7", "name": "kept"}
    with visitor(stage) as client, visitor(stage) as other:
        log_in(client, key)
        before = {"form_token": token(client)}
        client.cookies.delete("farm_session")
        asked = client.post("/submit/send", data=fields | before)
        assert (asked.status_code, "Your login has ended" in asked.text) == (401, True)
        kept = Page(asked.text)
        kept.is_harmless()
        sent = {str(one["name"]): one.get("value") or "" for name, one in kept.elements if name == "input"}
        # A wrong key at first.
        again = client.post("/login/send", data=sent | {"key": "wrong"})
        assert again.status_code == 403
        assert "kept" in sent
        assert sent["kept"] in [one.get("value") for _, one in Page(again.text).elements]
        back = Page(client.post("/login/send", data=sent | {"key": key}).text)
        back.is_harmless()
        sent = {str(one["name"]): one.get("value") or "" for name, one in back.elements if name == "input"}
        form = client.post("/submit/send", data=sent)
        assert form.status_code == 200
        assert long.strip() in Page(form.text).text
        values = {one.get("name"): one.get("value") for name, one in Page(form.text).elements if name == "input"}
        assert (values["n"], values["num_inference_steps"], values["name"]) == ("3", "7", "kept")
        assert stage.context.views.renders(limit=1, owner="ann")[0].name != "kept"
        # Of a page that was open since before the login, too; but not by another site.
        old = client.post("/submit/send", data=fields | before)
        assert (old.status_code, long.strip() in Page(old.text).text) == (403, True)
        assert "nothing was done" in old.text
        elsewhere = client.post("/submit/send", data=fields | before, headers={"Sec-Fetch-Site": "cross-site"})
        assert (elsewhere.status_code, "a long prompt" in elsewhere.text) == (403, False)
        # What is kept is for the form alone, whatever somebody makes of it.
        for nonsense in ("[1]", "{", '{"prompt": 1}', '{"form_token": "x", "evil": "y"}'):
            data = {"form_token": token(other, "/login"), "key": key, "next": "/usage", "kept": nonsense}
            assert other.post("/login/send", data=data).headers["location"] == "/usage"
