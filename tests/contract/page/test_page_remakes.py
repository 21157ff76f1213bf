"""What a picture's page says makes it again: by the command, the JSON and the form, of pictures of every kind."""

import html
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from tests.contract.page.test_page_form import checked, form_of, sent
from tests.contract.page.visitors import token, visitor
from tests.contract.stage import MODELS, Stage, png, running_stage

#: Two ControlNets; defaults of a model's own that a picture may do without; one that weighs as the web UI does.
_MORE = """
[models.nets]
kind = "diffusers"
source = "somewhere/tiny"
pipeline = "StableDiffusionPipeline"
controlnets = ["somewhere/net", "somewhere/other"]
width = 64
height = 64

[models.own]
kind = "diffusers"
source = "somewhere/tiny"
pipeline = "StableDiffusionPipeline"
negative_prompt = "ugly"
sampler = "euler a"
clip_skip = 2
width = 64
height = 64
"""
_NET = {"control_images": ["{image}"], "controlnet_conditioning_scale": 0.75, "control_guidance_end": 0.5}
_NETS = {"control_images": ["{image}", "{image}"], "controlnet_conditioning_scale": [0.75, 0.5], "guess_mode": True}
_SIZES = {"original_size": [768, 512], "crops_coords_top_left": [0, 16], "target_size": [1024, 1024]}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"model": "tiny", "prompt": 'it\'s "a star" $HOME -- `x`', "negative_prompt": "two\nlines, 'b'"},
    "lora": {"model": "tiny", "prompt": "a star", "loras": {"ink": 0.123456789}, "sampler": "dpm++ 2m karras"},
    "webui": {
        "model": "tiny",
        "prompt": "a (red:1.3) [star|ring] \\(x\\) <lora:ink:0.8> # not this",
        "prompt_weighting": "a1111",
        "negative_prompt": "[blue:green:0.5]",
    },
    "compel": {"model": "weighted", "prompt": '("a star", "a ring").blend(1, 0.5)'},
    "long": {"model": "tiny", "prompt": "a very long star " * 40, "long_prompts": "chunk"},
    "controlnet": {"model": "net", "prompt": "a star", **_NET},
    "two controlnets": {"model": "nets", "prompt": "a star", **_NETS},
    "micro-conditioning": {"model": "xl", "prompt": "a star", **_SIZES},
    "eta": {"model": "tiny", "prompt": "a star", "sampler": "ddim", "eta": 0.5, "guidance_scale": 0},
    "template": {"model": "tiny", "templates": ["a {red} star"], "product": {"num_inference_steps": [3]}},
    "defaults": {"model": "own", "prompt": "a star"},
    "no defaults": {"model": "own", "prompt": "a star", "negative_prompt": "", "clip_skip": 1, "sampler": "ddim"},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("remakes") / "home", models=MODELS + _MORE) as stage:
        stage.working.clear()
        yield stage


@pytest.fixture(scope="module")
def ann(stage: Stage) -> Iterator[httpx.Client]:
    with visitor(stage, "ann") as client:
        yield client


@pytest.fixture(scope="module")
def image(stage: Stage) -> str:
    files = {"file": ("image.png", png(), "image/png")}
    return str(stage.client().post("/v1/files", files=files, data={"purpose": "input"}).json()["reference"])


def spec_of(stage: Stage, render: str) -> Any:
    [job] = stage.context.views.jobs(render)
    return job.spec


@pytest.mark.parametrize("kind", _KINDS)
def test_a_picture_is_made_again_by_the_command_the_json_the_buttons_and_the_form(
    stage: Stage, ann: httpx.Client, image: str, kind: str
) -> None:
    asked = json.loads(json.dumps({**_KINDS[kind], "seed": 77}).replace("{image}", image))
    answer = stage.client().post("/v1/renders", json=asked)
    assert answer.status_code == 202, answer.text
    spec = spec_of(stage, answer.json()["id"])
    picture = f"{answer.json()['id']}-000000"
    page = ann.get(f"/pictures/{picture}").text

    def shown(name: str) -> str:
        found = re.search(rf'<pre id="{name}"[^>]*>(.*?)</pre>', page, re.DOTALL)
        assert found is not None
        return html.unescape(found[1])

    submitted = stage.client().post("/v1/renders", json=json.loads(shown("json")))
    assert spec_of(stage, submitted.json()["id"]) == spec
    assert spec_of(stage, commanded(stage, shown("command"))) == spec
    again = ann.post(f"/pictures/{picture}/again", data={"form_token": token(ann)})
    assert spec_of(stage, again.headers["location"].rpartition("/")[2]) == spec
    vary = ann.post(f"/pictures/{picture}/vary", data={"form_token": token(ann), "n": "1"})
    varied = spec_of(stage, vary.headers["location"].rpartition("/")[2])
    assert varied == spec.model_copy(update={"seed": varied.seed})
    form = form_of(ann.get(f"/submit?from={picture}").text)
    form["checked"] = checked(sent(ann, form))
    assert spec_of(stage, sent(ann, form).headers["location"].rpartition("/")[2]) == spec


def commanded(stage: Stage, line: str) -> str:
    """The id of the render that a command submits, pasted as it is."""
    farm, render, *words = shlex.split(line.replace("$'two\\nlines, \\047b\\047'", shlex.quote("two\nlines, 'b'")))
    assert (farm, render) == ("farm", "render")
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    result = CliRunner().invoke(cli, [render, "--no-wait", "--json", *words], env=environment, standalone_mode=False)
    assert result.exception is None, (line, result.output)
    return stage.context.views.renders(limit=1, owner="ann")[0].id


def test_a_negative_prompt_of_a_models_own_is_shown_and_can_be_left_out(ann: httpx.Client) -> None:
    page = ann.get("/submit?model=own").text
    assert "<bdi>ugly</bdi>" in page
    assert "Euler a, the model’s own" in page
    assert 'placeholder="2"' in page
    form = form_of(page) | {"prompt": "a star", "no_negative": "on", "negative_prompt": "blurry"}
    answer = sent(ann, form)
    assert (answer.status_code, "leave out one of them" in answer.text) == (422, True)
    assert 'name="no_negative"' not in ann.get("/submit?model=tiny").text


def test_a_model_that_draws_no_words_has_no_field_for_long_ones(ann: httpx.Client) -> None:
    assert 'name="long_prompts"' in ann.get("/submit?model=tiny").text
    assert 'name="long_prompts"' not in ann.get("/submit?model=toy").text
