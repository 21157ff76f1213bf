"""What `/metrics` says of slots: the numbers in the rows, for each worker and each priority."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from storage.database.tables import jobs, renders
from storage.fleet.slots import SlotCounts
from storage.fleet.workers import NewWorker, WorkerActivity
from storage.rules.states import Priority
from tests.contract.renders import claim, pictures, published, rendered, submit
from tests.contract.stage import Stage, running_stage

COUNTS = SlotCounts(
    limit=8,
    used=5,
    aside=2,
    ahead=3,
    joined=41,
    stepped_aside=7,
    ticks=1234,
    rows_used=600,
    rows_computed=800,
    mixed_ticks=50,
    apart_ticks=20,
    lora_calls="apart",
)


@pytest.fixture
def stage(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    told = {} if database_kind == "sqlite" else {"database_url": request.getfixturevalue("postgres")}
    with running_stage(tmp_path / "home", **told) as stage:
        stage.working.clear()
        yield stage


def gauges(stage: Stage, *names: str) -> dict[str, float]:
    """The values of these gauges, by what stands before them."""
    lines = [line for line in stage.keyless().get("/metrics").text.splitlines() if not line.startswith("#")]
    found = dict(line.rsplit(" ", 1) for line in lines)
    return {name: float(value) for name, value in found.items() if name.split("{")[0] in names}


def works(stage: Stage, name: str, slots: SlotCounts | None) -> None:
    stage.context.workers.announce(
        NewWorker(name=name, host="gpu-1", device="cuda:0", device_name="A100", pid=1, models=["tiny"])
    )
    stage.context.workers.beat(name, WorkerActivity(state="rendering", model="tiny", pictures=99, slots=slots))


def test_each_worker_tells_its_slots_its_calls_and_their_fill(stage: Stage) -> None:
    works(stage, "a", COUNTS)
    works(stage, "b", replace(COUNTS, used=0, aside=0, ahead=0, ticks=0, rows_used=0, rows_computed=0))
    works(stage, "batches", None)
    a, b = (f'{{device="A100",worker="{name}"}}' for name in "ab")
    assert gauges(stage, "farm_worker_slot_fill", "farm_worker_ticks") == {
        f"farm_worker_slot_fill{a}": 0.75,
        f"farm_worker_slot_fill{b}": 0.0,
        f"farm_worker_ticks{a}": 1234.0,
        f"farm_worker_ticks{b}": 0.0,
    }
    told = {name: value for name, value in gauges(stage, "farm_worker_slots").items() if 'worker="a"' in name}
    assert told == {
        f'farm_worker_slots{{device="A100",how="{how}",worker="a"}}': value
        for how, value in {"limit": 8.0, "used": 5.0, "aside": 2.0, "ahead": 3.0}.items()
    }


def test_each_worker_tells_how_pictures_with_different_loras_are_called(stage: Stage) -> None:
    works(stage, "a", COUNTS)
    assert gauges(stage, "farm_worker_lora_ticks") == {
        f'farm_worker_lora_ticks{{device="A100",how="{how}",worker="a"}}': value
        for how, value in {"apart": 20.0, "together": 30.0}.items()
    }
    [told] = [one["slots"] for one in stage.client().get("/v1/workers").json() if one["name"] == "a"]
    assert (told["mixed_ticks"], told["apart_ticks"], told["lora_calls"]) == (50, 20, "apart")


def test_the_time_to_the_first_call_is_told_by_priority(stage: Stage) -> None:
    farm, now = stage.services.jobs, float(int(time.time()))
    # Made 100 and 10 s after their submission, of which the device took 30 and 4, and the store 2 and 1.
    for priority, since, elapsed, store in ((Priority.BULK, 100, 30.0, 2.0), (Priority.INTERACTIVE, 10, 4.0, 1.0)):
        render_id = submit(farm, pictures(1), priority=priority)
        held = claim(farm)
        farm.complete(
            replace(rendered(held), elapsed_seconds=elapsed, store_seconds=store, render_seconds=0.5),
            published(*held.jobs),
        )
        with stage.services.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.render_id == render_id).values(finished_at=now))
            connection.execute(update(renders).where(renders.c.id == render_id).values(created_at=now - since))
    assert gauges(stage, "farm_first_call_seconds") == {
        'farm_first_call_seconds{model="tiny",priority="bulk"}': 68.0,
        'farm_first_call_seconds{model="tiny",priority="interactive"}': 5.0,
    }
