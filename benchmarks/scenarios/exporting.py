"""A render as a dataset: the farm's export beside WebDataset's own writer over the same files."""

import hashlib
import io
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

from PIL.Image import Image

from benchmarks.prompts import prompts
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Round, Scenario, Target
from benchmarks.synthetic import photograph
from scheduler.export.plan import Sharding
from scheduler.export.run import Export
from scheduler.export.targets import FolderTarget
from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.jobs.jobs import Jobs
from storage.jobs.values import Published, RenderedBatch, Submission
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import picture_key
from storage.renders.exports import Exports
from storage.renders.views import Views
from storage.rules.faults import RetryPolicy
from storage.rules.states import Priority
from storage.spec.picture import Spec

_PICTURES, _QUICK, _DIFFERENT, _SHARD = 200, 16, 8, 100
_SIZE = 512
_BATCH = 8
_MODEL = "tiny"


@contextmanager
def _rendered(folder: Path, n: int) -> Iterator[tuple[Database, LocalObjects, str]]:
    """A render of n pictures, as a worker leaves it: rows, and files in a folder."""
    drawn = [_png(photograph(_SIZE, seed)) for seed in range(_DIFFERENT)]
    objects = LocalObjects(folder / "objects")
    with closing(Database(f"sqlite:///{folder / 'farm.db'}")) as database:
        upgrade(database)
        jobs = Jobs(database, RetryPolicy(lease_seconds=600, max_attempts=3, quarantine_seconds=3600))
        specs = (_spec(prompt, seed) for seed, prompt in enumerate(prompts(n)))
        render_id = jobs.submit(specs, Submission(owner="bench", priority=Priority.NORMAL), quanta={_MODEL: _BATCH})
        while claim := jobs.claim(model=_MODEL, worker="bench", limit=_BATCH):
            published = []
            for job in claim.jobs:
                data = drawn[job.index % _DIFFERENT]
                stored = objects.put(picture_key(job.render_id, job.index), data)
                published.append(
                    Published(
                        job=job,
                        object=stored.key,
                        sha256=stored.sha256,
                        bytes=stored.bytes,
                        pixels_sha256=hashlib.sha256(data).hexdigest(),
                    )
                )
            recipe = {"kind": "diffusers", "pipeline": "StableDiffusionPipeline", "weights": "0" * 64, "device": "cpu"}
            batch = RenderedBatch(
                id=claim.batch_id, worker="bench", model=_MODEL, jobs=claim.jobs, recipe=recipe, render_seconds=1.0
            )
            jobs.complete(batch, published)
        yield database, objects, render_id


def _spec(prompt: str, seed: int) -> Spec:
    return Spec(
        model=_MODEL,
        prompt=prompt,
        negative_prompt="",
        width=_SIZE,
        height=_SIZE,
        num_inference_steps=20,
        guidance_scale=5.0,
        sampler="ddim",
        seed=seed,
    )


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def _farm(conditions: Conditions) -> Iterator[Round]:
    from scheduler.export.webdataset import FORMAT

    n, rounds = _QUICK if conditions.quick else _PICTURES, count()
    with _rendered(conditions.folder, n) as (database, objects, render_id):

        def one_round() -> Figures:
            to = conditions.folder / f"export-{next(rounds)}"
            started = time.perf_counter()
            done = Export(
                views=Views(database),
                objects=objects,
                exports=Exports(database),
                target=FolderTarget(to),
                render_id=render_id,
                format=FORMAT,
                sharding=Sharding(pictures=_SHARD),
            ).run(lambda _: None)
            seconds = time.perf_counter() - started
            if done.pictures != n:
                raise AssertionError(f"{done.pictures} of {n} pictures were exported")
            shutil.rmtree(to)
            return {"mb_per_second": done.bytes / seconds / 1e6}

        yield one_round


@contextmanager
def _shard_writer(conditions: Conditions) -> Iterator[Round]:
    import webdataset

    n, rounds = _QUICK if conditions.quick else _PICTURES, count()
    asked = prompts(n)
    with _rendered(conditions.folder, n) as (_, _, render_id):

        def one_round() -> Figures:
            to = conditions.folder / f"shards-{next(rounds)}"
            to.mkdir()
            started, size = time.perf_counter(), 0
            with webdataset.ShardWriter(str(to / "%05d.tar"), maxcount=_SHARD, verbose=0) as writer:
                for index, prompt in enumerate(asked):
                    file = conditions.folder / "objects" / picture_key(render_id, index)
                    data = file.read_bytes()
                    size += len(data)
                    told = {"prompt": prompt, "seed": index, "width": _SIZE, "height": _SIZE}
                    writer.write({"__key__": f"{index:09d}", "png": data, "txt": prompt, "json": told})
            seconds = time.perf_counter() - started
            shutil.rmtree(to)
            return {"mb_per_second": size / seconds / 1e6}

        yield one_round


SCENARIO = Scenario(
    name="export",
    title="Exporting a dataset",
    measures=(
        f"Megabytes of pictures a second into WebDataset shards: {_PICTURES} files of 0.4 MB, in shards of {_SHARD}, "
        "from a folder into a folder. The farm checks every hash, writes a Parquet table and syncs each shard to the "
        "disk; ShardWriter copies."
    ),
    limit="reading and writing each byte once: the disk, or a copy in memory",
    figures={"mb_per_second": Figure("exported", "MB/s", "higher")},
    arms=[
        Arm("farm", _farm, ("pyarrow",)),
        Arm("ShardWriter", _shard_writer, ("webdataset",)),
    ],
    targets=[Target("15", "mb_per_second", "farm", ">=", 0.8, over="ShardWriter")],
    share=15,
)
