"""Pictures from prompts with the real pipeline: what is made, what is recorded, and that it can be made again."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scheduler.results.compare import compare
from scheduler.results.conversion import converted
from storage.objects.pixels import pixels_sha256_of
from storage.spec.controls import Controls
from storage.spec.picture import Spec
from tests.acceptance.command import Ended, Home
from tests.forks import Starter
from tests.servers import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
#: The job of this name, in SQL.
_NAMED = "render_id || '-' || printf('%06d', \"index\") = ?"
MANIFEST = [json.loads(line) for line in (EXAMPLES / "prompts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def examples(served: Home) -> Ended:
    """The examples, rendered by the farm that runs."""
    return _render_examples(served)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Home]:
    """Another home, where `farm render` starts a farm for itself."""
    settings = {"FARM_DEVICES": "auto", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    home = Home(tmp_path_factory.mktemp("elsewhere"), starter, **settings)
    yield home
    home.is_left_in_peace()


def _render_examples(home: Home) -> Ended:
    # Of as few steps as a row does not name: what they show is for tests/meaning/ to judge.
    examples = ("--prompts", str(EXAMPLES / "prompts.jsonl"), "--steps", "5")
    return home.farm("render", *examples, "--seed", "31", "--json", "--out", "examples")


def _seed_of(home: Home, job: dict[str, Any]) -> int:
    [(seed,)] = home.rows(f"SELECT seed FROM jobs WHERE render_id || '-' || printf('%06d', \"index\") = '{job['id']}'")
    return int(seed)


def test_the_same_prompts_and_seed_give_the_same_pictures_on_another_farm(
    examples: Ended, served: Home, elsewhere: Home
) -> None:
    again = _render_examples(elsewhere)

    assert again.err.startswith("starting a farm on this machine")
    elsewhere.is_left_in_peace()
    assert examples.json["id"] != again.json["id"]
    assert [job["seed"] for job in again.json["jobs"]] == [job["seed"] for job in examples.json["jobs"]]
    for one, other in zip(examples.json["jobs"], again.json["jobs"], strict=True):
        files = (served.folder / one["file"]).read_bytes(), (elsewhere.folder / other["file"]).read_bytes()
        # Who joined and left beside a picture when decides its calls, and those its last bits.
        difference = compare(*files).largest_difference
        assert difference is not None
        assert difference <= 1


def test_json_is_one_object_with_a_job_for_every_prompt_and_progress_goes_elsewhere(examples: Ended) -> None:
    result = examples.json

    assert (result["state"], result["done"], result["total"]) == ("done", len(MANIFEST), len(MANIFEST))
    assert [job["prompt"] for job in result["jobs"]] == [row["prompt"] for row in MANIFEST]
    for index, job in enumerate(result["jobs"]):
        assert job == {
            **dict.fromkeys(("position", "custom_id", "labels", "spec", "made_with")),
            **{name: job[name] for name in ("model", "worker", "started_at", "finished_at", "bytes")},
            **{name: job[name] for name in ("started_time", "finished_time")},
            "id": f"{result['id']}-{index:06d}",
            "render": result["id"],
            "image": f"/v1/jobs/{result['id']}-{index:06d}/image",
            "progress": 1.0,
            "index": index,
            "state": "done",
            "seed": job["seed"],
            "prompt": MANIFEST[index]["prompt"],
            "file": f"examples/{index:06d}-{job['seed']}.png",
            "object": f"renders/{result['id']}/{index:06d}.png",
            "sha256": job["sha256"],
            "pixels_sha256": job["pixels_sha256"],
            "remarks": [],
            "attempt": 1,
            "fault": None,
            "error": None,
        }
    assert f"render {result['id']}: {len(MANIFEST)} of {len(MANIFEST)}" in examples.err


def test_rows_keep_their_own_seeds_and_the_others_count_up_from_the_given_one(examples: Ended) -> None:
    numbers = iter(range(31, 31 + len(MANIFEST)))
    assert [job["seed"] for job in examples.json["jobs"]] == [
        row["seed"] if "seed" in row else next(numbers) for row in MANIFEST
    ]


def test_table_picture_and_json_agree_on_every_seed_and_hash(examples: Ended, served: Home) -> None:
    for job, row in zip(examples.json["jobs"], MANIFEST, strict=True):
        file = served.folder / job["file"]
        assert sha256(file.read_bytes()).hexdigest() == job["sha256"]
        assert pixels_sha256_of(file.read_bytes()) == job["pixels_sha256"]
        with Image.open(file) as picture:
            assert picture.size == (row["width"], row["height"])
            recipe, parameters = json.loads(picture.info["diffusion-farm"]), picture.info["parameters"]
        assert recipe["spec"]["seed"] == _seed_of(served, job) == job["seed"]
        assert f", Seed: {job['seed']}, Size: {row['width']}x{row['height']}, Model: shapes, " in parameters


def test_a_picture_carries_its_recipe_for_us_and_for_galleries(examples: Ended, served: Home) -> None:
    job = examples.json["jobs"][-1]
    with Image.open(served.folder / job["file"]) as picture:
        recipe, parameters = json.loads(picture.info["diffusion-farm"]), picture.info["parameters"]

    told = served.farm("recipe", job["id"], "--json").json
    assert recipe == {"spec": told["spec"], "made_with": told["made_with"]}
    version = told["made_with"]["farm"]
    assert parameters == (
        "a small green circle on a red background, top left\nNegative prompt: white\n"
        f"Steps: 12, Sampler: DDIM, CFG scale: 6, Seed: {job['seed']}, Size: 96x96, Model: shapes, "
        f"Version: diffusion-farm {version}"
    )


def test_a_recipe_names_everything_that_a_picture_depends_on(examples: Ended, served: Home) -> None:
    job = examples.json["jobs"][0]

    recipe = served.farm("recipe", job["id"], "--json").json

    assert set(recipe["spec"]) == Spec.model_fields.keys() - Controls.model_fields.keys()
    assert (
        recipe["made_with"].items()
        >= {
            "kind": "diffusers",
            "pipeline": "StableDiffusionPipeline",
            "source": "shipped:shapes",
            "dtype": "float32",
            "scheduler": "DDIMScheduler",
        }.items()
    )
    assert all(recipe["made_with"][name] for name in ("farm", "torch", "diffusers", "transformers", "device"))
    assert sum(n for _, _, _, n in recipe["made_with"]["calls"]) == recipe["spec"]["num_inference_steps"]
    assert recipe["batch"] is None
    assert (recipe["object"], recipe["sha256"]) == (job["object"], job["sha256"])
    assert recipe["render_seconds"] > 0
    assert json.loads(served.farm("recipe", job["id"]).out) == recipe


def test_a_picture_made_again_is_identical_whoever_joined_and_left_beside_it(examples: Ended, served: Home) -> None:
    calls = {job["id"]: _calls(served, job["id"]) for job in examples.json["jobs"][::3]}
    # Others came or went while it was denoised.
    among_others = max(calls, key=lambda job: len(calls[job]))
    assert len(calls[among_others]) > 1

    verdict = served.farm("rerender", among_others, "--json").json
    sentence = served.farm("rerender", next(iter(calls))).out

    assert verdict["job"] == among_others
    assert verdict["sha256"][0] == verdict["sha256"][1]
    assert (verdict["identical"], verdict["largest_difference"], verdict["changed"]) == (True, 0, [])
    assert re.fullmatch(rf"\w+-\d+ is identical to {next(iter(calls))} \(rendered by the same calls\)\n", sentence)


def test_a_pictures_file_is_made_again_and_lends_its_settings(examples: Ended, served: Home) -> None:
    job = examples.json["jobs"][1]
    file = str(served.folder / job["file"])

    verdict = served.farm("rerender", file, "--json").json
    told = served.farm("recipe", file, "--json").json
    [like] = served.farm("render", "--from", file, "--steps", "3", "--json").json["jobs"]

    assert (verdict["picture"], verdict["identical"], verdict["changed"]) == (file, True, [])
    known = served.farm("recipe", job["id"], "--json").json
    assert (told["program"], told["spec"], told["made_with"]) == ("the farm", known["spec"], known["made_with"])
    spec = served.farm("recipe", like["id"], "--json").json["spec"]
    assert spec == {**known["spec"], "num_inference_steps": 3}


def test_so_is_a_jpeg_or_webp_that_was_made_of_it(examples: Ended, served: Home) -> None:
    job = examples.json["jobs"][1]
    known = served.farm("recipe", job["id"], "--json").json
    files = [served.folder / f"lent.{form}" for form in ("webp", "jpeg")]
    for file in files:
        with Image.open(served.folder / job["file"]) as picture:
            file.write_bytes(converted(picture, "webp" if file.suffix == ".webp" else "jpeg", 80))
        told = served.farm("recipe", str(file), "--json").json
        assert (told["program"], told["spec"], told["made_with"]) == ("the farm", known["spec"], known["made_with"])

    sentence = served.farm("rerender", str(files[-1])).out

    # What is compared is what was made, not what JPEG made of it.
    assert f" is identical to the picture that {files[-1]} was made of (rendered by the same calls)\n" in sentence


def test_a_picture_of_an_earlier_version_is_made_again_with_its_batch(served: Home) -> None:
    [one, _] = served.farm("render", "a large red star", "-n", "2", "--json").json["jobs"]
    with closing(sqlite3.connect(served.path / "farm.db")) as connection, connection:
        connection.execute(f"UPDATE jobs SET own_recipe = NULL WHERE {_NAMED}", [one["id"]])

    said = served.farm("rerender", one["id"], code=None).out

    assert re.search(r"(identical to|the same \S.*) \S+ \(rendered in a batch of [12]\)", said)


def test_a_picture_is_made_again_by_as_many_threads_as_before(served: Home) -> None:
    [one, _] = served.farm("render", "a large red star", "-n", "2", "--json").json["jobs"]
    made_with = served.farm("recipe", one["id"], "--json").json["made_with"]
    assert {threads for _, threads, _, _ in made_with["calls"]} == {1}
    # As if its worker had had more of them then, and, an earlier version, a batch for each picture.
    calls = [[rows, 3, row, n] for rows, _, row, n in made_with["calls"]]
    with closing(sqlite3.connect(served.path / "farm.db")) as connection, connection:
        connection.execute(
            "UPDATE batches SET recipe = json_set(recipe, '$.calls', json(?), '$.decoded', json(?)) "
            f"WHERE id = (SELECT batch_id FROM jobs WHERE {_NAMED})",
            [json.dumps(calls), json.dumps(made_with["decoded"]), one["id"]],
        )
        connection.execute(f"UPDATE jobs SET own_recipe = NULL WHERE {_NAMED}", [one["id"]])

    verdict = served.farm("rerender", one["id"], "--json", code=None).json

    assert _calls(served, verdict["again"]) == calls
    # And the next picture is rendered as ever.
    [after] = served.farm("render", "a small blue circle", "--json").json["jobs"]
    assert {threads for _, threads, _, _ in _calls(served, after["id"])} == {1}
    eventually(
        lambda: {w["device"]: w["threads"] for w in served.farm("workers", "--json").json}.items() >= {("cpu:0", 1)},
        "the worker says by how many threads it rendered last",
    )
    assert re.search(r"^cpu-0@.* cpu \w+, 1 thread ", served.farm("workers").out, re.MULTILINE)


def _calls(served: Home, job: str) -> list[list[int]]:
    """Return the calls that made a picture: rows, threads, the first of its own rows, how many such calls."""
    calls: list[list[int]] = served.farm("recipe", job, "--json").json["made_with"]["calls"]
    return calls


def test_a_file_without_seeds_gets_distinct_ones_that_are_recorded(served: Home) -> None:
    result = served.farm("render", "--prompts", str(EXAMPLES / "prompts.txt"), "-n", "3", "--json").json

    seeds = [job["seed"] for job in result["jobs"]]
    assert len(set(seeds)) == len(seeds) == 24
    assert seeds == [_seed_of(served, job) for job in result["jobs"]]
    assert all(job["file"] is None for job in result["jobs"])
    last = result["jobs"][-1]
    assert served.farm("recipe", last["id"], "--json").json["spec"]["seed"] == last["seed"]
    assert served.farm("rerender", last["id"], "--json").json["identical"]
    again = served.farm("render", "--prompts", str(EXAMPLES / "prompts.txt"), "--no-wait", "--json").json
    assert not set(seeds) & {job["seed"] for job in served.farm("jobs", again["id"], "--json").json}


def test_the_three_kinds_of_file_ask_for_the_same_pictures(served: Home) -> None:
    prompts = ["a red star, large", "a blue circle"]
    files = [
        served.file("same.txt", "\n".join(prompts)),
        served.file("same.jsonl", "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)),
        served.file("same.csv", "prompt\n" + "\n".join(f'"{prompt}"' for prompt in prompts)),
    ]

    pictures = [
        [(job["prompt"], job["seed"], job["sha256"]) for job in _simulated(served, "--prompts", file, "--seed", "7")]
        for file in files
    ]

    assert pictures[0] == pictures[1] == pictures[2]
    assert [picture[:2] for picture in pictures[0]] == [(prompts[0], 7), (prompts[1], 8)]


def test_the_command_line_fills_in_what_a_row_leaves_out(served: Home) -> None:
    file = served.file("mixed.csv", "prompt,width,negative,seed\na,96,,5\nb,,blurred,\n")

    found = _simulated(served, "c", "--prompts", file, "--width", "32", "--negative", "dark", "--steps", "2", "-n", "2")

    specs = [served.farm("recipe", job["id"], "--json").json["spec"] for job in found]
    told = [(spec["prompt"], spec["width"], spec["negative_prompt"], spec["num_inference_steps"]) for spec in specs]
    assert told[::2] == told[1::2] == [("c", 32, "dark", 2), ("a", 96, "dark", 2), ("b", 32, "blurred", 2)]
    assert [spec["seed"] for spec in specs[2:4]] == [5, 6]
    assert len({spec["seed"] for spec in specs}) == 6


def test_a_render_tells_people_how_it_ended_and_where_the_pictures_are(served: Home) -> None:
    kept = served.farm("render", "--model", "simulated", "a red star")
    fetched = served.farm("render", "--model", "simulated", "a red star", "--out", "some/where", "--seed", "3")

    [line] = kept.out.splitlines()
    where = rf"in {served.path}/objects \(`farm fetch \1 --out DIR` downloads them\)"
    assert re.fullmatch(rf"render (\w+) is done: 1 picture .*, {where}", line), line
    assert fetched.out.endswith(", in some/where\n")
    assert sorted(file.name for file in (served.folder / "some/where").iterdir()) == ["000000-3.png", "pictures.jsonl"]


def test_a_render_of_combinations_says_how_to_see_them_as_a_grid(served: Home) -> None:
    render = ("render", "--model", "simulated", "a red star")
    made = served.farm(*render, "--product", "steps=1,2", "--product", "sampler=ddim,euler a")

    [offered] = re.findall(r"`farm (grid \w+ --x steps --y sampler)` draws them as a grid", made.err)
    drawn = served.farm(*offered.split(), "--out", "grid.png")
    assert "grid grid.png: 4 pictures, columns: steps; rows: sampler; the seeds differ from cell to cell" in drawn.err
    with Image.open(served.folder / "grid.png") as grid:
        assert (grid.format, grid.width) == ("PNG", 582)
    assert "as a grid" not in served.farm(*render, "--product", "steps=1").err
    assert "as a grid" not in served.farm(*render, "-n", "2").err


def test_a_second_render_into_the_same_folder_keeps_the_pictures_of_the_first(served: Home) -> None:
    command = ("render", "--model", "simulated", "--seed", "3", "--out", "same/folder")
    first = served.farm(*command, "a red star")
    second = served.farm(*command, "a blue star", "--json")
    folder = served.folder / "same/folder"
    named = folder / f"000000-3-{second.json['id']}.png"

    assert "they are kept" not in first.err
    assert re.search(f"held other pictures under the names of 1 picture; they are kept, .* {named.name}", second.err)
    assert second.json["jobs"][0]["file"] == f"same/folder/{named.name}"
    assert sorted(folder.glob("*.png")) == [named, folder / "000000-3.png"]
    assert len({file.read_bytes() for file in folder.glob("*.png")}) == 2
    noted = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    assert [(one["file"], one["prompt"]) for one in noted] == [
        ("000000-3.png", "a red star"),
        (named.name, "a blue star"),
    ]


def test_a_render_that_nobody_waits_for_is_finished_by_the_farm_that_runs(served: Home) -> None:
    accepted = served.farm("render", "--model", "simulated", "a red star", "--no-wait")

    render_id = accepted.out.strip()
    assert f"farm watch {render_id}" in accepted.err
    assert "farm up" not in accepted.err
    served.wait_until_done(render_id)


def _simulated(home: Home, *arguments: str) -> list[dict[str, Any]]:
    """The jobs of a render with the simulated model."""
    jobs: list[dict[str, Any]] = home.farm("render", "--model", "simulated", "--json", *arguments).json["jobs"]
    return jobs
