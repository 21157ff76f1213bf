"""Labelled grids: every cell says what it is, at the command line, over HTTP and by the client."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from diffusion_farm import InvalidRequestProblem, NotFoundProblem, Render
from scheduler.cli.main import cli
from scheduler.results.grid_axes import Grid, grid_of
from scheduler.results.grid_sheet import GridSheet
from storage.database.connection import Database
from storage.errors import InvalidInput
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob, Published
from storage.objects.object_keys import picture_key
from storage.objects.store import ObjectStore, open_objects
from storage.renders.views import Views
from storage.settings import Settings
from storage.spec.picture import Spec
from tests.contract.renders import KITTEN, claim, fail, rendered, submit
from tests.contract.stage import Stage, running_stage

STEPS, SAMPLERS = (1, 2, 3), ("ddim", "heun")


def colour(spec: Spec) -> tuple[int, int, int]:
    """One that no other picture of these tests has, and no part of a sheet."""
    return (10 + spec.num_inference_steps, 60 + SAMPLERS.index(str(spec.sampler)), 100 + spec.seed)


def drawn(spec: Spec) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (spec.width, spec.height), colour(spec)).save(file, "PNG")
    return file.getvalue()


def spec(**fields: Any) -> Spec:
    return Spec.model_validate(KITTEN.model_dump() | fields)


@pytest.fixture
def objects(local: Settings) -> ObjectStore:
    """What differs between stores is the matter of `test_objects.py`."""
    return open_objects(local)


def finished(farm: Jobs, objects: ObjectStore, specs: list[Spec], *, failing: int | None = None) -> str:
    render_id = submit(farm, [NewJob(spec=one, labels={"n": one.num_inference_steps}) for one in specs])
    left = len(specs)
    while left:
        found = claim(farm, limit=left)
        left -= len(found.jobs)
        made = []
        for job in found.jobs:
            if job.index == failing:
                fail(farm, job, "the picture is black")
                continue
            stored = objects.put(picture_key(job.render_id, job.index), drawn(job.spec))
            made.append(Published(job=job, object=stored.key, sha256=stored.sha256, bytes=stored.bytes))
        farm.complete(rendered(found), made)
    return render_id


def boxes(sheet: Image.Image) -> dict[tuple[int, ...], tuple[int, int, int, int]]:
    """Of each colour that is drawn over at least 40 × 40 pixels, its smallest box."""
    pixels: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for y in range(0, sheet.height, 8):
        for x in range(0, sheet.width, 8):
            pixels.setdefault(sheet.getpixel((x, y)), []).append((x, y))  # type: ignore[arg-type]
    return {
        one: (min(x for x, _ in at), min(y for _, y in at), max(x for x, _ in at), max(y for _, y in at))
        for one, at in pixels.items()
        if len(at) >= 25
    }


def test_every_picture_stands_in_its_column_and_row(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    specs = [spec(num_inference_steps=steps, sampler=name) for name in SAMPLERS for steps in STEPS]
    render_id = finished(farm, objects, specs)

    grid = grid_of(Views(database), render_id, {"x": "sampler", "y": "steps"}, {})
    sheet = GridSheet(grid=grid, objects=objects, title="a title", side=96)
    image = sheet.draw()

    found = boxes(image)
    assert image.size == sheet.size
    for one in specs:
        left, top, right, bottom = found[colour(one)]
        assert (right - left, bottom - top) <= (96, 96)
        x, y = SAMPLERS.index(str(one.sampler)), STEPS.index(one.num_inference_steps)
        # In the middle of its cell; looked at every 8 pixels.
        assert sheet.left + x * (96 + 12) + 16 <= left < sheet.left + x * (96 + 12) + 16 + 8
        for steps in STEPS[:y]:
            other = next(two for two in specs if (two.sampler, two.num_inference_steps) == (one.sampler, steps))
            assert found[colour(other)][3] < top
    assert sheet.notes() == ["columns: sampler; rows: steps, n"]


def test_what_is_missing_failed_or_gone_is_shown_as_such(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    specs = [spec(num_inference_steps=steps, sampler=name) for name in SAMPLERS for steps in STEPS][:-1]
    render_id = finished(farm, objects, specs, failing=1)
    objects.delete(picture_key(render_id, 2))
    grid = grid_of(Views(database), render_id, {"x": "steps", "y": "sampler"}, {})

    texts = drawn_texts(grid, objects)

    assert [*texts].count("not in the render") == 1
    assert {"failed", "the picture is black", "its picture is gone from", "steps 1", "sampler Heun"} <= {*texts}
    farm.cancel(waiting := submit(farm, [spec(num_inference_steps=steps) for steps in STEPS]))
    assert [*drawn_texts(grid_of(Views(database), waiting, {}, {}), objects)].count("cancelled") == 3


def drawn_texts(grid: Grid, objects: ObjectStore) -> list[str]:
    """What is written on a grid, as it is handed to Pillow."""
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def note(self: ImageDraw.ImageDraw, at: Any, said: Any, *args: Any, **options: Any) -> None:
        written.append(str(said))
        text(self, at, said, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", note)
        GridSheet(grid=grid, objects=objects, title="a title").draw()
    return written


def test_pictures_that_share_a_cell_are_all_shown_and_said(
    farm: Jobs, database: Database, objects: ObjectStore
) -> None:
    specs = [
        spec(num_inference_steps=steps, sampler=name, seed=seed)
        for name in SAMPLERS
        for steps in STEPS
        for seed in range(20 if steps == 1 and name == "ddim" else 3)
    ]
    render_id = finished(farm, objects, specs)
    grid = grid_of(Views(database), render_id, {"x": "steps", "y": "sampler"}, {})
    sheet = GridSheet(grid=grid, objects=objects, title="a title", side=48)

    found = boxes(sheet.draw())

    assert {colour(one) for one in specs if one.seed < 3} <= found.keys()
    assert sheet.notes()[1] == "up to 20 pictures in a cell, told apart by seed"
    assert {"seed 0", "seed 2", "and 4 more"} <= {*drawn_texts(grid, objects)}
    by_seed = grid_of(Views(database), render_id, {"x": "seed", "y": "steps", "z": "sampler"}, {})
    assert by_seed.most_in_cell == 1


def test_a_grid_that_would_be_too_large_is_refused(farm: Jobs, database: Database, objects: ObjectStore) -> None:
    render_id = finished(farm, objects, [spec(seed=seed, num_inference_steps=1 + seed) for seed in range(45)])
    grid = grid_of(Views(database), render_id, {"x": "seed", "y": "steps"}, {})
    with pytest.raises(InvalidInput, match="make its pictures smaller than 512 pixels, or name axes"):
        GridSheet(grid=grid, objects=objects, title="", side=512).draw()


# At the command line, over HTTP, by the client.


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("grids") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def made(stage: Stage) -> Render:
    farm = stage.farm()
    return farm.wait(farm.submit("a star", product={"steps": [1, 2, 3], "sampler": ["ddim", "heun"]}))


def run(stage: Stage, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words], env={"FARM_HOME": str(stage.services.settings.home), "FARM_OWNER": "ann"})


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        picture.load()
        return picture.size


def test_the_command_draws_a_grid_and_says_what_is_on_it(stage: Stage, made: Render, tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    done = run(stage, "grid", made.id, "--out", str(path))
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"grid {path}: 6 pictures, columns: steps; rows: sampler; the seeds differ from cell to cell" in done.stderr
    assert size_of(path.read_bytes())[0] > 3 * 192

    told = run(stage, "grid", made.id, "--x", "sampler", "--cell", "48", "--out", str(path), "--json")
    assert json.loads(told.stdout) == {
        "render": made.id,
        "file": str(path),
        "pictures": 6,
        "x": "sampler",
        "y": "steps",
        "z": None,
        "within_cells": [],
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "grid.html"), "a grid is a .png image"),
        (("--x", "colour"), "x: no picture has a field or label 'colour'; those that differ are steps, sampler, seed"),
        (("--label", "split=train"), "has no pictures with these labels"),
        (("--label", "split"), "expected NAME=VALUE"),
        (("--cell", "4"), "4 is not in the range 48<=x<=512"),
        (("--out", "nowhere/grid.png"), "nowhere/grid.png: cannot be written"),
    ],
)
def test_the_command_says_what_is_wrong(
    stage: Stage, made: Render, options: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run(stage, "grid", made.id, *options)
    assert refused.exit_code != 0
    assert words in " ".join((refused.stderr or "").split()) + str(refused.exception)
    assert [*tmp_path.iterdir()] == []


def test_a_grid_comes_over_http_and_by_the_client(stage: Stage, made: Render) -> None:
    answer = stage.client().get(f"/v1/renders/{made.id}/grid", params={"x": "sampler", "cell": 64})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["content-disposition"] == f'inline; filename="{made.id}-grid.png"'
    assert stage.farm().grid(made, x="sampler", cell=64) == answer.content
    assert size_of(answer.content)[1] < size_of(stage.farm().grid(made))[1] * 2
    assert stage.context.grid_drawing.places.busy == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"x": "colour"}, "x"),
        ({"x": "steps", "y": "steps"}, "y"),
        ({"z": ""}, "z"),
        ({"cell": 1}, "cell"),
        ({"label": "split"}, "label"),
        ({"x": "a\0b"}, "x"),
        ({"columns": "steps"}, "columns"),
    ],
)
def test_a_wrong_axis_is_named(stage: Stage, made: Render, query: Mapping[str, Any], field: str) -> None:
    refused = stage.client().get(f"/v1/renders/{made.id}/grid", params=dict(query))
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
    assert refused.json()["errors"][0]["field"] == field
    with pytest.raises(InvalidRequestProblem):
        stage.farm().grid(made, **query)


def test_a_grid_is_for_whoever_may_see_the_render(stage: Stage, made: Render) -> None:
    with pytest.raises(NotFoundProblem):
        stage.farm(stage.new_key(owner="bob")).grid(made)
