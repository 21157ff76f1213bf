"""Prompt files of every kind and place in, datasets out, as a person uses them."""

import io
import json
import os
from pathlib import Path

import boto3
import pyarrow
import pyarrow.parquet
import pytest

from tests.acceptance.command import Home
from tests.servers import S3Server

ROWS = [
    {"prompt": f"picture {n}", "custom_id": f"row-{n}", "topic": "ab"[n % 2], "model": "simulated"} for n in range(12)
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_a_manifest_becomes_a_dataset_with_its_labels(served: Home) -> None:
    manifest = served.file("rows.jsonl", JSONL)
    made = served.farm("render", "--prompts", manifest, "--json")
    assert "topic: kept as a label (12 pictures)" in made.err

    done = served.farm("export", made.json["id"], "--format", "webdataset", "--to", "set", "--shard-size", "5")

    assert "12 pictures" in done.out
    assert "in 3 shards in set" in done.out
    table = pyarrow.parquet.read_table(served.folder / "set" / "00000.parquet").to_pylist()
    assert [(row["custom_id"], row["topic"], row["prompt"]) for row in table] == [
        (row["custom_id"], row["topic"], row["prompt"]) for row in ROWS[:5]
    ]
    again = served.farm(
        *("export", made.json["id"], "--format", "webdataset", "--to", "set", "--shard-size", "5", "--json")
    ).json
    assert (again["pictures"], again["shards"]) == (12, 3)


@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet"])
def test_prompts_may_come_from_standard_input(served: Home, kind: str) -> None:
    if kind == "parquet":
        data = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), data)
        given = data.getvalue()
    else:
        given = JSONL.encode() if kind == "jsonl" else b"a star\na circle\n"
    read, write = os.pipe()
    with open(write, "wb") as pipe:
        pipe.write(given)  # a pipe has room for it
    with open(read, "rb") as stdin:
        made = served.farm("render", "--prompts", "-", "--model", "simulated", "--json", stdin=stdin).json
    assert (made["state"], made["done"]) == ("done", 2 if kind == "txt" else 12)


def test_prompts_may_come_from_a_bucket(served: Home, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = moto_server.create_bucket()
    client = boto3.Session().client("s3", endpoint_url=moto_server.endpoint_url)
    client.put_object(Bucket=bucket, Key="sets/our rows.jsonl", Body=JSONL.encode())
    settings = {**moto_server.environment, "FARM_S3_ENDPOINT_URL": moto_server.endpoint_url}

    made = served.farm("render", "--prompts", f"s3://{bucket}/sets/our rows.jsonl", "--json", settings=settings).json
    missing = served.farm("render", "--prompts", f"s3://{bucket}/nothing.jsonl", code=2, settings=settings)

    assert made["done"] == 12
    missing.complains("no object nothing.jsonl in s3://")


def test_bad_rows_are_left_out_on_request_with_a_report(served: Home) -> None:
    manifest = served.file(
        "some.jsonl", JSONL + 'not JSON\n{"prompt": "b", "steps": -1}\n{"prompt": "c", "model": "nope"}\n'
    )
    refused = served.farm("render", "--prompts", manifest, "--no-wait", code=2)
    heading, *lines = refused.err.splitlines()
    assert heading == "farm: 3 bad rows:"
    assert [line.split(": ")[0] for line in lines] == [f"some.jsonl line {n}" for n in (13, 14, 15)]

    made = served.farm("render", "--prompts", manifest, "--skip-bad", "--json")

    assert made.json["done"] == 12
    assert [f"skipped: some.jsonl line {n}: " in made.err for n in (13, 14, 15)] == [True] * 3
    assert "3 invalid rows skipped" in made.err


def test_a_render_is_accepted_once_under_its_name(served: Home) -> None:
    manifest = served.file("once.jsonl", JSONL)
    command = ("render", "--prompts", manifest, "--once", "tonight", "--no-wait")
    first, second = (served.farm(*command).out.strip() for _ in range(2))
    assert first == second
    served.file("once.jsonl", JSONL.replace("picture 3", "another"))
    served.farm(*command, code=2).complains(f"'tonight' reused with a different request.*{first}")
    served.wait_until_done(first)


def test_templates_and_lists_make_every_combination(served: Home) -> None:
    served.folder.joinpath("cards").mkdir(exist_ok=True)
    served.file("cards/shape.txt", "star\ncircle\n")
    made = served.farm(
        *("render", "--template", "a {red|blue} __shape__", "--wildcards", "cards", "--model", "simulated"),
        *("--product", "steps=1,2", "-n", "2", "--json"),
    ).json
    assert made["done"] == 16
    prompts = [job["prompt"] for job in made["jobs"]]
    assert prompts[::4] == ["a red star", "a red circle", "a blue star", "a blue circle"]


def test_a_dry_run_says_what_it_would_take_and_submits_nothing(served: Home) -> None:
    served.farm("render", "a star", "--model", "simulated")
    before = served.rows("SELECT count(*) FROM renders")
    manifest = served.file("dry.jsonl", JSONL)

    said = served.farm("render", "--prompts", manifest, "-n", "2", "--dry-run")
    told = served.farm("render", "--prompts", manifest, "-n", "2", "--dry-run", "--json").json

    assert said.out.startswith("24 pictures in 3 batches\nabout ")
    assert (told["pictures"], told["batches"], told["models"]) == (24, 3, ["simulated"])
    assert told["device_seconds"] > 0
    assert told["bytes"] > 0
    assert served.rows("SELECT count(*) FROM renders") == before
    served.farm("render", "--template", "{0|1|2|3|4|5|6|7|8|9}" * 9, "--dry-run", code=2).complains(
        "1,000,000,000 prompts"
    )


def test_a_dry_run_refuses_what_submitting_would(served: Home) -> None:
    twice = served.file("twice.csv", "prompt;custom_id\na;x\n;\nb;y\nc;x\n")
    served.farm("render", "--prompts", twice, "--dry-run", code=2).complains(
        "twice.csv line 5: duplicate custom_id 'x'; twice.csv line 2 has it, too"
    )
    skipped = served.farm("render", "--prompts", twice, "--dry-run", "--skip-bad", "--model", "simulated", "--json")
    assert (skipped.json["pictures"], skipped.json["left_out"]) == (2, 1)
    served.file("in-the-way", "")
    served.farm("render", "a", "--dry-run", "--out", "in-the-way/below", code=2).complains("--out in-the-way/below: ")
    served.farm("render", "a", "--model", "simulated", "--once", "a name", "--no-wait")
    again = ("--model", "simulated", "--once", "a name", "--dry-run")
    served.farm("render", "a", *again)
    served.farm("render", "b", *again, code=2).complains("'a name' reused with a different request")


def test_a_render_is_held_released_and_purged(served: Home) -> None:
    held = served.farm("render", "a star", "-n", "60", "--model", "slow", "--no-wait", "--owner", "eve").out.strip()
    assert f"of render {held}" in served.farm("hold", held).out
    assert served.farm("status", held, "--json").json["state"] == "held"
    served.farm("release", held)
    served.farm("cancel", held)
    made = served.farm("render", "a star", "--model", "simulated", "--owner", "eve", "--json").json["id"]
    assert next(one["pictures"] for one in served.farm("usage", "--json").json if one["owner"] == "eve") >= 1

    shown = served.farm("purge", "--older-than", "0d", "--owner", "eve", "--json").json
    assert shown["deleted"] is False
    served.farm("purge", "--older-than", "5x", code=2)
    # Younger than a lease: a worker that lost a job might be storing its picture now.
    assert made not in [one["render_id"] for one in shown["renders"]]
    assert served.farm("status", made, "--json").json["state"] == "done"


def test_an_export_that_cannot_be_is_refused(served: Home, tmp_path: Path) -> None:
    made = served.farm("render", "a star", "--model", "simulated", "--json").json["id"]
    (tmp_path / "thesis.txt").write_text("mine")
    where = ("--format", "parquet", "--to")
    served.farm("export", made, *where, str(tmp_path), code=2).complains("holds no export")
    served.farm("export", "nothing", *where, "set2", code=2).complains("no render with id or name 'nothing'")
    served.farm("export", made, *where, "s3:///set", code=2).complains("expected s3://bucket/prefix")
    sizes = ("--shard-size", "5", "--shard-bytes", "1MB")
    served.farm("export", made, *where, "set2", *sizes, code=2).complains("mutually exclusive")
    assert not (served.folder / "set2").exists()
