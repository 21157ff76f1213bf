"""Pictures that were made while others joined, left, went first, were cancelled and died are made again: the same file.

`pytest tests/integration/test_rerenders.py --pictures 200 -s` for the long run.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from scheduler.intake.submit import intake_of, submit_order
from storage.fleet.slots import SlotCounts
from storage.renders.views import JobView
from storage.rules.states import Priority, State
from storage.spec.picture import Request
from storage.spec.sampler_names import PLAIN
from tests.forks import WITH_TORCH, Starter
from tests.integration.conftest import farm_of
from tests.integration.farm import Farm, child_of, device_processes
from tests.servers import eventually

pytestmark = pytest.mark.slow

_MODELS = """
[models.small]
kind = "diffusers"
source = "{source}"
pipeline = "StableDiffusionPipeline"
width = 32
height = 32
num_inference_steps = 20
guidance_scale = 5.0
batch_limit = 4
"""
#: How many pictures are compared with what Diffusers draws.
_SAMPLE = 12
#: Deaths, beside the first one: each costs the time to load PyTorch.
_PICTURES_A_DEATH = 60

#: Builds the model in a folder.
_BUILD = """
import pathlib, sys
from tests.pipelines.random_weights import smallest
smallest(pathlib.Path(sys.argv[1]))
"""
#: Draws pictures by Diffusers' own calls, each alone; prints by how much the files that were made differ, 0…255.
_DRAW = """
import json, sys
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from worker.rendering.samplers import make_scheduler
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
own, found = pipeline.scheduler, []
for one in json.load(open(sys.argv[2])):
    spec = one["spec"]
    pipeline.scheduler = make_scheduler(spec.get("sampler"), own)
    named = ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")
    made = pipeline(
        **{name: spec[name] for name in named},
        eta=spec.get("eta") or 0.0,
        generator=torch.Generator("cpu").manual_seed(spec["seed"]),
    ).images[0]
    here = np.asarray(Image.open(one["file"])).astype(int)
    found.append(int(np.abs(np.asarray(made).astype(int) - here).max()))
print(json.dumps(found))
"""


class Turmoil:
    """Somebody submits, cancels and kills, by dice."""

    def __init__(self, farm: Farm, *, seed: int) -> None:
        self.farm = farm
        self.dice = random.Random(seed)
        # Of two threads, one may be faster: then pictures go on by another number than they began with.
        self.worker = farm.on_cpu(OMP_NUM_THREADS="2")
        self.renders: list[str] = []
        self.cancelled = self.killed = 0
        #: What the processes that were killed told last.
        self._told: list[SlotCounts] = []

    def submit(self, pictures: int, priority: Priority, **said: Any) -> None:
        accepted = submit_order(
            intake_of(self.farm.services, self.farm.tickets),
            Submitter(owner=self.dice.choice(["ann", "ben"])),
            Order(requests=tuple(SourcedRequest("", self._request(said)) for _ in range(pictures))),
            Terms(priority=priority),
        )
        self.renders.append(accepted.render_id)

    def _request(self, said: Mapping[str, Any]) -> Request:
        dice = self.dice
        sampler = dice.choice([None, *PLAIN])
        size = dice.choice([32, 32, 32, 40])
        asked = {
            "prompt": dice.choice(["a red star", "a blue cross", "a very long story, " * 4]),
            "negative_prompt": dice.choice(["", "blue", "grey, dark"]),
            "num_inference_steps": dice.randint(1, 30),
            "guidance_scale": dice.choice([1.0, 3.0, 7.5]),
            "width": size,
            "height": size,
            "seed": dice.randrange(2**32),
        }
        asked |= {"sampler": sampler} if sampler else {}
        asked |= {"eta": dice.choice([0.3, 1.0])} if sampler in (None, "ddim") else {}
        return Request.parse({**asked, **said})

    def go_on(self) -> None:
        """Have something happen."""
        chance = self.dice.random()
        if chance < 0.25:
            self.submit(1, Priority.INTERACTIVE)
        elif chance < 0.4:
            self.cancel()
        elif chance < 0.5:
            # So many that some are claimed ahead.
            self.submit(20, Priority.BULK)
        else:
            self.submit(self.dice.randint(1, 5), self.dice.choice([Priority.NORMAL, Priority.BULK]))

    def cancel(self) -> None:
        """Cancel a picture that is being made, or was claimed ahead."""
        self.submit(3, Priority.NORMAL, num_inference_steps=30)
        running = eventually(lambda: self.jobs(State.RUNNING), "a picture is being made")
        job = self.dice.choice(running)
        self.cancelled += self.farm.services.jobs.cancel_job(job.render_id, job.index)

    def kill(self) -> None:
        """Kill the process that has the device, and pictures in hand."""
        self.submit(3, Priority.NORMAL, num_inference_steps=30)
        eventually(lambda: self.jobs(State.RUNNING), "a picture is being made")
        self._told += self._told_now()
        child_of(device_processes(self.worker)["cpu:0"]).kill()
        self.killed += 1

    def jobs(self, *states: State) -> list[JobView]:
        views = self.farm.services.views
        return [job for render_id in self.renders for state in states for job in views.jobs(render_id, state=state)]

    def unfinished(self) -> int:
        return sum(
            view.total - view.done - view.failed - view.cancelled for view in map(self.farm.render, self.renders)
        )

    def told(self) -> Mapping[str, int]:
        """Calls, joins and steps aside, as the workers told them."""
        every = [*self._told, *self._told_now()]
        return {name: sum(getattr(one, name) for one in every) for name in ("ticks", "joined", "stepped_aside")}

    def _told_now(self) -> list[SlotCounts]:
        return [worker.slots for worker in self.farm.services.workers.all() if worker.slots is not None]


@pytest.fixture
def farm(sqlite: str, redis_url: str, tmp_path: Path, starter: Starter) -> Iterator[Farm]:
    source = tmp_path / "small"
    starter.said(_BUILD, str(source), folder=tmp_path)
    addresses = {
        "FARM_DATABASE_URL": sqlite,
        "FARM_OBJECTS_URL": str(tmp_path / "objects"),
        "FARM_BROKER_URL": redis_url,
        # Whoever is killed so often burns attempts of jobs that are not to blame.
        "FARM_MAX_ATTEMPTS": "50",
    }
    with farm_of(_MODELS.format(source=source), addresses, tmp_path, starter) as farm:
        yield farm


def test_pictures_made_in_turmoil_are_made_again_to_the_last_byte(farm: Farm, request: pytest.FixtureRequest) -> None:
    pictures = int(request.config.getoption("--pictures"))
    turmoil = Turmoil(farm, seed=pictures)
    deaths = 1 + pictures // _PICTURES_A_DEATH
    turmoil.submit(4, Priority.BULK, width=32, height=32, num_inference_steps=30)
    while (done := len(turmoil.jobs(State.DONE))) < pictures or turmoil.killed < deaths:
        if turmoil.killed < deaths and done >= pictures * (turmoil.killed + 1) // (deaths + 1):
            turmoil.kill()
        turmoil.go_on()
        most = turmoil.dice.choice([2, 4, 8, 30])
        eventually(lambda most=most: turmoil.unfinished() <= most, "few are left", timeout=300)  # type: ignore[misc]

    # The last ones are made meanwhile.
    made = {job.id: rerendered(farm, job) for job in turmoil.jobs(State.DONE)}
    eventually(lambda: not turmoil.unfinished(), "all are finished", timeout=300)
    made |= {job.id: rerendered(farm, job) for job in turmoil.jobs(State.DONE) if job.id not in made}
    assert turmoil.jobs(State.FAILED) == []
    calls = [job.own_recipe["calls"] for job in turmoil.jobs(State.DONE)]
    beside = sum(any(rows > 2 for rows, *_ in runs) for runs in calls)
    changed = sum(len(runs) > 1 for runs in calls)
    print(  # noqa: T201
        f"{len(made)} pictures, {beside} of them beside others, {changed} in calls of more than one shape; "
        f"{turmoil.cancelled} cancelled, {turmoil.killed} kills; of the calls at least {dict(turmoil.told())}"
    )
    assert beside
    assert [said for said in made.values() if not said["identical"]] == []

    sample = turmoil.dice.sample(turmoil.jobs(State.DONE), min(_SAMPLE, len(made)))
    assert max(differences_to_diffusers(farm, sample)) <= 1


def rerendered(farm: Farm, job: JobView) -> Mapping[str, Any]:
    """What `farm rerender` says of a picture; its exit code is 1 if they differ."""
    command = ["-m", "scheduler.cli.main", "rerender", job.id, "--json"]
    # With torch: else each of them imports it anew, which takes longer than its picture.
    ended = farm.starter.ran(command, folder=farm.folder, env=farm.environment | WITH_TORCH)
    assert ended.returncode in (0, 1), ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout)
    return said | {"spec": job.spec.fields()}


def differences_to_diffusers(farm: Farm, jobs: Sequence[JobView]) -> list[int]:
    """By how many levels at most each picture differs from what Diffusers draws of its specification."""
    asked = []
    for job in jobs:
        file = farm.folder / f"{job.id}.png"
        file.write_bytes(farm.services.objects.get(str(job.object)))
        asked.append({"spec": job.spec.fields(), "file": str(file)})
    specs = farm.folder / "asked.json"
    specs.write_text(json.dumps(asked))
    said = farm.starter.said(_DRAW, str(farm.folder / "small"), str(specs), folder=farm.folder)
    found: list[int] = json.loads(said.splitlines()[-1])
    return found
