"""Slips in orders, on every way in: what was meant, all bad rows at once; and what a dry run shows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli, main
from tests.contract.stage import Stage, running_stage

ROWS = '{"prompt": "a", "steps": 0}\n{"prompt": "b"}\n{"prompt": "c", "size": "7x7"}\n{"prompt": "d", "label": "x"}\n'


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("forgiving") / "home") as stage:
        yield stage


def farm(stage: Stage, *words: str, code: int = 0) -> Any:
    environment = {"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"}
    ended = CliRunner().invoke(cli, words, env={**environment, "COLUMNS": "400"})
    assert ended.exit_code == code or ended.exception is not None, ended.output
    return ended


def uploaded(stage: Stage, text: str) -> str:
    file: dict[str, Any] = {"file": ("rows.jsonl", text.encode())}
    made: str = stage.client().post("/v1/files", files=file, data={"purpose": "manifest"}).json()["id"]
    return made


@pytest.mark.parametrize(
    ("address", "body", "says"),
    [
        ("renders", {"prompt": "a", "stepz": 4}, "stepz: unknown field; did you mean steps"),
        ("renders", {"promt": "a"}, "promt: unknown field; did you mean prompt"),
        ("renders", {"prompt": "a", "aspekt": "16:9"}, "did you mean aspect"),
        ("renders", {"prompt": "a", "webhook": {"ulr": "https://x.y"}}, "did you mean url"),
        ("renders", {"prompt": "a", "product": {"stepz": [1]}}, "did you mean steps"),
        ("renders", {"zip": {"prompt": ["a"], "sede": [1]}}, "did you mean seed"),
        ("schedules", {"name": "x", "crno": "@daily", "render": {"prompt": "a"}}, "did you mean cron"),
        ("schedules", {"name": "x", "cron": "@daily", "render": {"prompt": "a", "stepz": 1}}, "did you mean steps"),
    ],
)
def test_an_unknown_field_is_told_with_what_was_meant(stage: Stage, address: str, body: Any, says: str) -> None:
    answer = stage.client().post(f"/v1/{address}", json=body)
    assert answer.status_code == 422
    assert says in answer.text


def test_sizes_and_names_are_fields_of_every_order(stage: Stage) -> None:
    client = stage.client()

    def size(body: dict[str, Any]) -> tuple[int, int]:
        one = client.post("/v1/renders", json={**body, "dry_run": True}).json()["examples"][0]
        return one["width"], one["height"]

    assert size({"prompt": "a", "size": "128x64"}) == (128, 64)
    assert size({"prompt": "a", "aspect": "2:1"}) == (88, 48)
    assert size({"prompt": "a", "product": {"size": ["128x64"]}}) == (128, 64)
    manifest = uploaded(stage, '{"prompt": "a", "size": "128x64"}\n')
    assert size({"manifest": manifest, "width": 256, "height": 256}) == (128, 64)
    assert size({"manifest": uploaded(stage, '{"prompt": "a"}\n'), "size": "128x64"}) == (128, 64)
    wrong = client.post("/v1/renders", json={"prompt": "a", "size": "128x64", "width": 64})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "size")
    plan = {"cron": "@yearly", "render": {"prompt": "a", "size": "128x64", "name": "yearly", "note": "n"}}
    assert client.post("/v1/schedules", json={"name": "sized", **plan}).status_code == 201
    fired = client.post("/v1/schedules/sized/run-now").json()["render_id"]
    assert client.get(f"/v1/renders/{fired}").json()["name"] == "yearly"
    spec = client.get(f"/v1/jobs/{fired}-000000").json()["spec"]
    assert (spec["width"], spec["height"]) == (128, 64)


def test_all_bad_rows_of_a_file_are_told_over_http_and_nothing_is_accepted(stage: Stage) -> None:
    before = [one.id for one in stage.services.views.renders()]

    answer = stage.client().post("/v1/renders", json={"manifest": uploaded(stage, ROWS)})

    assert answer.status_code == 422
    heading, first, second = answer.json()["detail"].splitlines()
    assert heading == "2 bad rows:"
    assert first.startswith("rows.jsonl line 1: steps: ")
    assert second.startswith("rows.jsonl line 3: size: ")
    assert [one.id for one in stage.services.views.renders()] == before


def test_a_dry_run_shows_pictures_as_they_would_be_rendered(stage: Stage, tmp_path: Path) -> None:
    words = ("render", "--template", "a {red|blue|green|black} star", "-n", "2", "--aspect", "2:1", "--dry-run")
    told = json.loads(farm(stage, *words, "--json").stdout.splitlines()[-1])

    assert [one["prompt"] for one in told["examples"]] == ["a red star", "a blue star", "a green star"]
    assert {(one["model"], one["width"], one["height"]) for one in told["examples"]} == {("tiny", 88, 48)}
    said = farm(stage, *words).output
    assert said.count("\nsuch as ") == 3
    assert "'a red star', tiny, 88×48" in said
    table = tmp_path / "rows.csv"
    table.write_text("prompt~size~label\na cat; a dog, big~128x64~x\n")
    ended = farm(stage, "render", "--prompts", str(table), "--delimiter", "~", "--dry-run")
    assert "'a cat; a dog, big', tiny, 128×64" in ended.output
    assert "label: kept as a label (1 picture)" in ended.output


def test_a_table_over_http_may_have_any_delimiter(stage: Stage) -> None:
    table = b"prompt~width\na cat; a dog, big~128\n"
    client = stage.client()
    sent = client.post("/v1/files", files={"file": ("rows.csv", table)}, data={"purpose": "manifest"}).json()["id"]

    def told(**fields: str) -> Any:
        return client.post("/v1/renders", json={"dry_run": True, **fields}).json()

    [example] = told(manifest=sent, delimiter="~")["examples"]
    assert (example["prompt"], example["width"]) == ("a cat; a dog, big", 128)
    assert "expected one character such as ';', or tab" in told(manifest=sent, delimiter="ab")["errors"][0]["message"]
    assert "no manifest is given" in told(prompt="a", delimiter=";")["detail"]


def test_all_bad_rows_of_a_file_are_told_at_the_command_line(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    monkeypatch.setenv("FARM_HOME", str(stage.services.settings.home))
    monkeypatch.setattr("sys.argv", ["farm", "render", "--prompts", str(rows), "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    heading, *lines = capsys.readouterr().err.splitlines()
    assert heading == "farm: 2 bad rows:"
    assert [line.partition(": ")[0] for line in lines] == [f"{rows} line 1", f"{rows} line 3"]
