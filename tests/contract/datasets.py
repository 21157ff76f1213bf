"""Finished renders to export: rows and real PNG files, made without a worker."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from scheduler.export import imagefolder, parquet, webdataset
from scheduler.export.plan import Sharding
from scheduler.export.run import Export, Progress
from scheduler.export.targets import open_target
from storage.database.connection import Database
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob, Published
from storage.objects.object_keys import picture_key
from storage.objects.pixels import pixels_sha256_of
from storage.objects.store import ObjectStore
from storage.renders.exports import Exports
from storage.renders.views import Views
from storage.settings import Settings
from tests.contract.renders import claim, fail, pictures, rendered, submit

#: Every export into a folder that the present test has made, with its layout: read back at its end.
MADE: dict[Path, str] = {}
FORMATS = {module.FORMAT.name: module.FORMAT for module in (imagefolder, parquet, webdataset)}


def wanted(n: int) -> list[NewJob]:
    """Pictures with names, and labels of several kinds."""
    topics = ["stars", "circles", "squares"]
    return [
        NewJob(
            spec=spec.model_copy(update={"prompt": f"a kitten, number {number}"}),
            custom_id=f"row/{number}",
            labels={"topic": topics[number % 3], "score": number / 2 if number % 2 else number, "tags": ["x", number]}
            | ({"seed": "theirs"} if number == 0 else {}),
        )
        for number, spec in enumerate(pictures(n))
    ]


def render_of(
    farm: Jobs, objects: ObjectStore, n: int, *, failing: Collection[int] = (), cancelled: Collection[int] = ()
) -> str:
    """The id of a finished render of so many pictures; those of these indexes failed, or were cancelled."""
    render_id = submit(farm, wanted(n))
    for index in cancelled:
        farm.cancel_job(render_id, index)
    make(farm, objects, n - len(cancelled), failing=failing)
    return render_id


def make(farm: Jobs, objects: ObjectStore, n: int, *, failing: Collection[int] = ()) -> None:
    """Claim, draw and complete the next `n` jobs."""
    left = n
    while left:
        found = claim(farm, limit=min(8, left))
        left -= len(found.jobs)
        published = []
        for job in found.jobs:
            if job.index in failing:
                fail(farm, job, "the picture is black")
                continue
            data = drawn(job.spec.seed)
            key = picture_key(job.render_id, job.index)
            objects.put(key, data)
            published.append(
                Published(
                    job=job,
                    object=key,
                    sha256=hashlib.sha256(data).hexdigest(),
                    bytes=len(data),
                    pixels_sha256=pixels_sha256_of(data),
                    remarks=("read in part",) if job.index == 0 else (),
                )
            )
        farm.complete(rendered(found), published)


def drawn(seed: int) -> bytes:
    """A picture that no other seed has."""
    image = Image.new("RGB", (16, 16), (seed % 256, seed // 256 % 256, 90))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def exported(
    database: Database,
    objects: ObjectStore,
    render_id: str,
    to: str,
    *,
    layout: str = "webdataset",
    sharding: Sharding | None = None,
    follow: bool = False,
    settings: Settings | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    export = Export(
        views=Views(database),
        objects=objects,
        exports=Exports(database),
        target=open_target(to, settings or Settings(home=Path(to))),
        render_id=render_id,
        format=FORMATS[layout],
        sharding=sharding or Sharding(pictures=10),
        follow=follow,
    )
    progress = export.run(show)
    if not to.startswith("s3://"):
        MADE[Path(to)] = layout
    return progress


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def hugging_face(cache: Path) -> Iterator[Any]:
    """Hugging Face's `datasets`, with a cache of its own and without any hub."""
    with patch.dict(os.environ, HF_HUB_OFFLINE="1"):
        import datasets

        with patch.object(datasets.config, "HF_DATASETS_CACHE", cache):
            yield datasets


def read_back(datasets: Any, folder: Path, layout: str) -> None:
    """Read an export by the call that `scheduler/README.md` names: every row, and every picture that was made."""
    notes = [json.loads(file.read_text()) for file in folder.glob("**/*_stats.json")]
    made = sum(note["successes"] for note in notes)
    if not made:
        return  # no picture to tell the types of
    rows = datasets.load_dataset(str(folder), split="train")
    column = {"webdataset": "png", "parquet": "image", "imagefolder": "image"}[layout]
    found = [row[column] for row in rows if row[column] is not None]
    assert len(rows) == (sum(note["count"] for note in notes) if layout == "parquet" else made)
    assert len(found) == made
    assert all(isinstance(picture, Image.Image) for picture in found)
