"""Templates over HTTP make the pictures that `farm render --template` makes, within bounds."""

from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.intake.templates import Templates
from tests.contract.stage import Stage, running_stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("templates") / "home") as stage:
        yield stage


def prompts(stage: Stage, body: dict[str, Any]) -> list[str]:
    accepted = stage.client().post("/v1/renders", json=body)
    assert accepted.status_code == 202, accepted.text
    return [job["prompt"] for job in stage.farm().jobs(accepted.json()["id"])]


def test_every_combination_is_rendered_each_n_times_and_combined_with_values(stage: Stage) -> None:
    body = {"templates": ["a {red|blue} __animal__"], "wildcards": {"animal": ["cat", "{old|new} dog"]}}
    made = ["a red cat", "a red old dog", "a red new dog", "a blue cat", "a blue old dog", "a blue new dog"]
    assert prompts(stage, body) == made
    assert prompts(stage, {**body, "n": 2}) == [prompt for prompt in made for _ in range(2)]
    scaled = stage.client().post("/v1/renders", json={**body, "product": {"guidance_scale": [1.5, 3.0]}}).json()
    spec = stage.client().get(f"/v1/jobs/{scaled['id']}-000001").json()["spec"]
    assert (scaled["total"], spec["prompt"], spec["guidance_scale"]) == (12, "a red cat", 3.0)


def test_prompts_are_drawn_as_the_command_line_draws_them(stage: Stage) -> None:
    text, animals = "a {red|blue|green|grey} __animal__", ["cat", {"text": "dog", "weight": 3}, "newt"]
    body = {"templates": [text], "wildcards": {"animal": animals}, "random": 5, "seed": 7}
    weighted = {"animal": ({"text": "cat"}, {"text": "dog", "weight": 3.0}, {"text": "newt"})}
    here = Templates.model_validate({"texts": (text,), "wildcards": weighted, "random": 5, "seed": 7})
    assert prompts(stage, body) == prompts(stage, body) == list(here.prompts())


def test_a_dry_run_counts_and_remarks_are_those_of_prompts(stage: Stage) -> None:
    told = stage.client().post("/v1/renders", json={"templates": ["{null|b} star"], "dry_run": True}).json()
    assert told["total"] == 2
    one = {"prompt": "null", "dry_run": True}
    remarks = stage.client().post("/v1/renders", json=one).json()["remarks"]
    assert remarks
    assert (
        stage.client().post("/v1/renders", json={"templates": ["{null}"], "dry_run": True}).json()["remarks"] == remarks
    )


def test_a_wildcard_that_stands_in_no_template_is_remarked_on(stage: Stage) -> None:
    lists = {"animal": ["a __size__ cat"], "size": ["big"], "colour": ["red"]}
    told = stage.client().post(
        "/v1/renders", json={"templates": ["__animal__ here"], "wildcards": lists, "dry_run": True}
    )
    assert told.json()["remarks"] == ["wildcards: colour stands in no template, and is not read"]


def test_a_schedule_takes_templates(stage: Stage) -> None:
    render = {"templates": ["a {red|blue} star"]}
    added = stage.client().post("/v1/schedules", json={"name": "drawn", "cron": "@yearly", "render": render})
    assert (added.status_code, added.json()["pictures"]) == (201, 2)
    fired = stage.client().post("/v1/schedules/drawn/run-now").json()
    assert [job["prompt"] for job in stage.farm().jobs(fired["render_id"])] == ["a red star", "a blue star"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"templates": ["a {red|blue"]}, "templates: template 'a {red|blue': syntax error at character"),
        ({"templates": ["__animal__"]}, "templates: template '__animal__': no wildcard named 'animal'"),
        ({"templates": ["a"], "prompt": "b"}, "templates: not together with prompt"),
        ({"templates": ["a"], "zip": {"prompt": ["b"]}}, "prompt: given by itself, and in zip"),
        ({"prompt": "a", "random": 3}, "random: only together with templates"),
        ({"prompt": "a", "wildcards": {"x": ["y"]}}, "wildcards: only together with templates"),
        (
            {"templates": ["{a|b|c|d|e|f|g|h|i|j} " * 5]},
            "templates: 100,000 pictures in one call; the maximum is 10,000",
        ),
        ({"templates": ["a"] * 60, "random": 200}, "templates: 12,000 pictures in one call"),
        ({"templates": ["{" * 60]}, "its braces are nested too deeply"),
        ({"templates": ["a" * 2_001] * 2}, "templates: 4,002 characters"),
        ({"templates": ["__x__"], "wildcards": {"x": ["{a|b}" * 90] * 10}}, "templates: 4,505 characters"),
        ({"templates": ["__x__"], "wildcards": {"x": ["-1::red"]}}, "wildcards: x 1"),
        ({"templates": ["__x__"], "wildcards": {"x": ["__x__"]}}, "its wildcards are circular"),
        ({"templates": ["__x__"], "wildcards": {"x": []}}, "the wildcard 'x' has no values"),
        ({"templates": ["__x__"], "wildcards": {"x": [{"text": "a", "wait": 1}]}}, "wait"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_what_is_wrong_with_a_template_is_told(stage: Stage, body: dict[str, Any], words: str) -> None:
    refused = stage.client().post("/v1/renders", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
    assert words in refused.json()["detail"]


def test_a_template_counts_against_a_keys_limits(stage: Stage) -> None:
    client = stage.client(stage.new_key(queued=3))
    refused = client.post("/v1/renders", json={"templates": ["{a|b|c|d} star"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
