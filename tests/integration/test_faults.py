"""Faults of devices, models and jobs, rehearsed with the simulated model in real processes."""

from pathlib import Path

import psutil
import pytest

from scheduler.services import open_services
from storage.fleet.fault_log import FaultLog
from storage.fleet.memory_limits import Load, MemoryLimit, MemoryLimits
from storage.jobs.values import NewJob, Submission
from storage.rules.faults import Fault
from storage.rules.states import Priority, State
from storage.spec.file_marks import MarkedEntries
from storage.spec.picture import Request
from storage.spec.registry import read_registry
from tests.integration.farm import MODELS, Farm, child_of, device_processes
from tests.servers import eventually

# What the rows do is shown on both databases (tests/contract/test_faults.py).
pytestmark = pytest.mark.parametrize("stores", ["postgresql+s3"], indirect=True)

FAULTY = """
[models.narrow]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 2
batch_limit = 8
seconds_per_step = 0.005
seconds_per_step_and_picture = 0.0
fault = {{ {fault} }}
"""


@pytest.fixture
def log(farm: Farm) -> FaultLog:
    return FaultLog(farm.services.database)


def with_fault(farm: Farm, fault: str, *, name: str = "faulty") -> str:
    """A registry like the farm's with the model `narrow`, which has this fault; the file's name."""
    file = farm.folder / f"{name}.toml"
    file.write_text(MODELS + FAULTY.format(fault=fault))
    return str(file)


def submit(
    farm: Farm,
    registry: str,
    n: int,
    *,
    prompt: str = "a red star",
    others: tuple[str, ...] = (),
    steps: tuple[int, ...] = (2,),
) -> str:
    """A render of `narrow`, with the farm's tickets published."""
    settings = farm.settings.model_copy(update={"models_file": Path(registry)})
    services = open_services(settings)
    prompts = [*others, *[prompt] * (n - len(others))]
    specs = [
        services.registry.resolve(
            Request.parse({"prompt": words, "model": "narrow", "num_inference_steps": steps[seed % len(steps)]}),
            seed=seed,
        )
        for seed, words in enumerate(prompts)
    ]
    wanted = [NewJob(spec=spec, by_slots=True) for spec in specs]
    render_id = services.jobs.submit(wanted, Submission(owner="ann", priority=Priority.NORMAL), quanta={"narrow": 8})
    services.database.close()
    farm.tickets.publish("narrow", Priority.NORMAL, 2)
    return render_id


def test_running_out_of_memory_ends_in_pictures_and_every_worker_learns_from_it(farm: Farm, log: FaultLog) -> None:
    registry = with_fault(farm, 'kind = "out of memory", spares_batches_of = 2')
    first = farm.workers(1, machine="first", FARM_MODELS_FILE=registry)
    render_id = submit(farm, registry, 16)
    assert farm.finished(render_id).done == 16
    farm.assert_sound(render_id)
    [name] = {worker.device_name for worker in farm.services.workers.all()}
    served = read_registry(farm.settings.model_copy(update={"models_file": Path(registry)}))
    entry = MarkedEntries().of(served.models["narrow"])
    load = Load(model="narrow", entry=entry, width=32, height=32, device_name=name)
    assert MemoryLimits(farm.services.database).of(load) == MemoryLimit(pictures=2)
    assert (farm.folder / "workers-first.log").read_text().count("out of memory model=narrow") == 2
    first.terminate()
    first.wait()

    farm.workers(1, machine="second", FARM_MODELS_FILE=registry)
    farm.finished(again := submit(farm, registry, 16))
    farm.assert_sound(again)
    assert "out of memory" not in (farm.folder / "workers-second.log").read_text()
    assert log.latest(limit=10) == []


def test_what_does_not_fit_alone_is_tried_piece_by_piece_and_then_fails_clearly(farm: Farm, log: FaultLog) -> None:
    spared = with_fault(farm, 'kind = "out of memory", spares_frugal = true', name="spared")
    worker = farm.workers(1, machine="spared", FARM_MODELS_FILE=spared)
    assert farm.finished(submit(farm, spared, 3)).done == 3
    worker.terminate()
    worker.wait()

    hopeless = with_fault(farm, 'kind = "out of memory", prompt = "huge"', name="hopeless")
    farm.workers(1, machine="hopeless", FARM_MODELS_FILE=hopeless)
    render = farm.finished(render_id := submit(farm, hopeless, 3, others=("huge",)))
    assert (render.done, render.failed) == (2, 1)
    assert next((row.fault, row.attempt) for row in farm.rows(render_id)) == (Fault.OUT_OF_MEMORY, 1)
    assert [fault.fault for fault in log.latest(limit=10)] == [Fault.OUT_OF_MEMORY]


def test_a_device_that_breaks_gets_a_fresh_process_and_the_third_time_a_rest(farm: Farm, log: FaultLog) -> None:
    registry = with_fault(farm, 'kind = "broken device", prompt = "assert"')
    supervisor = farm.workers(1, FARM_MODELS_FILE=registry)
    [worker] = farm.services.workers.all()
    render_id = submit(farm, registry, 8, others=("assert",))

    eventually(lambda: log.quarantines(), "the device is in quarantine")

    assert len({fault.at for fault in log.latest(limit=100) if fault.fault is Fault.BROKEN_DEVICE}) == 3
    assert {(row.state, row.attempt) for row in farm.rows(render_id)} == {(State.QUEUED, 0)}
    farm.tickets.publish("narrow", Priority.NORMAL)
    eventually(lambda: [w.state for w in farm.services.workers.all()] == ["quarantined"], "it says so")
    # The process of the last break is gone, and so is every one before.
    child = child_of(device_processes(supervisor)["simulated:0"])
    assert child.pid != worker.pid
    assert not psutil.pid_exists(worker.pid)

    farm.services.jobs.cancel(render_id)
    log.end_quarantines(worker.name)
    assert farm.finished(submit(farm, registry, 4)).done == 4


def test_a_device_that_hangs_is_given_up_and_its_jobs_are_done_elsewhere(farm: Farm, log: FaultLog) -> None:
    # No scheduler process and long leases: nobody but the watchdog can know.
    hanging = with_fault(farm, 'kind = "hang"', name="hanging")
    healthy = with_fault(farm, 'kind = "error", prompt = "never"', name="healthy")
    long = {"FARM_LEASE_SECONDS": "600"}
    supervisor = farm.workers(1, machine="hanging", FARM_MODELS_FILE=hanging, FARM_STALL_SECONDS="3", **long)
    [worker] = farm.services.workers.all()
    render_id = submit(farm, hanging, 8)
    eventually(lambda: farm.rows(render_id)[0].state == State.RUNNING, "the batch is running")
    farm.workers(1, machine="healthy", FARM_MODELS_FILE=healthy, **long)

    eventually(lambda: log.latest(limit=1), "the watchdog has noticed")
    for _ in range(8):
        farm.tickets.publish("narrow", Priority.NORMAL)
    assert farm.finished(render_id).done == 8
    assert {fault.fault for fault in log.latest(limit=100)} == {Fault.TIMEOUT}
    assert {row.worker for row in farm.rows(render_id)} == {"simulated-0@healthy"}
    eventually(lambda: not psutil.pid_exists(worker.pid), "the hanging process is gone")
    eventually(lambda: "simulated:0" in device_processes(supervisor), "the device has a worker again")


def test_what_was_claimed_ahead_of_a_hanging_call_counts_no_attempt(farm: Farm, log: FaultLog) -> None:
    hanging = with_fault(farm, 'kind = "hang", prompt = "stuck"', name="hanging")
    farm.workers(1, FARM_MODELS_FILE=hanging, FARM_LEASE_SECONDS="600", FARM_STALL_SECONDS="3")
    [worker] = farm.services.workers.all()
    # Of different steps: they leave one by one, and others are claimed ahead.
    render_id = submit(farm, hanging, 160, others=("a star",) * 40 + ("stuck",), steps=(5, 17, 40, 26, 11))

    eventually(lambda: log.latest(limit=1), "the watchdog has noticed")
    eventually(lambda: [w.pid for w in farm.services.workers.all()] != [worker.pid], "another process has the device")
    done = farm.render(render_id).done
    # By then all that was left behind was found.
    eventually(lambda: farm.render(render_id).done > done, "it goes on")
    farm.services.jobs.cancel(render_id)
    met = [row for row in farm.rows(render_id) if row.fault is not None or row.suspect]
    faults = log.latest(limit=1000)
    assert {fault.fault for fault in faults} == {Fault.TIMEOUT}
    # A call's.
    assert len(met) <= 8


def test_a_worker_that_fails_everything_is_left_out_and_the_jobs_are_done_elsewhere(farm: Farm, log: FaultLog) -> None:
    farm.scheduler()
    bad = with_fault(farm, 'kind = "error"', name="bad")
    good = with_fault(farm, 'kind = "error", prompt = "never"', name="good")
    farm.workers(1, machine="bad", FARM_MODELS_FILE=bad)
    farm.workers(1, machine="good", FARM_MODELS_FILE=good)

    renders = [submit(farm, good, 8) for _ in range(6)]

    assert [farm.finished(render_id).done for render_id in renders] == [8] * 6
    # On a busy machine the good one may have been the faster each time.
    while not log.quarantines():
        renders.append(submit(farm, good, 8))
        assert farm.finished(renders[-1]).done == 8
    for render_id in renders:
        farm.assert_sound(render_id)
    assert {(q.worker, q.model) for q in log.quarantines()} == {("simulated-0@bad", "narrow")}
    # It still serves the other models.
    farm.finished(farm.submit(64, model="quick"))
    assert {fault.worker for fault in log.latest(limit=100)} == {"simulated-0@bad"}


def test_poison_fails_alone_after_three_attempts_and_its_batch_is_done(farm: Farm, log: FaultLog) -> None:
    registry = with_fault(farm, 'kind = "death", prompt = "poison"')
    farm.scheduler()
    farm.workers(2, FARM_MODELS_FILE=registry)

    render_id = submit(farm, registry, 8, others=("poison",))

    render = farm.finished(render_id)
    assert (render.done, render.failed) == (7, 1)
    farm.assert_sound(render_id)
    poison, *others = farm.rows(render_id)
    assert (poison.attempt, poison.fault) == (3, Fault.WORKER_DIED)
    assert {row.attempt for row in others} == {2}
    assert log.quarantines() == []


def test_a_picture_that_cannot_be_made_fails_at_once_and_alone(farm: Farm, log: FaultLog) -> None:
    registry = with_fault(farm, 'kind = "bad picture", prompt = "black"')
    farm.workers(1, FARM_MODELS_FILE=registry)
    render_id = submit(farm, registry, 8, others=("black",))
    assert farm.finished(render_id).done == 7
    bad, *_ = farm.rows(render_id)
    assert (bad.fault, bad.attempt, bad.object) == (Fault.BAD_PICTURE, 1, None)
    farm.assert_sound(render_id)
    assert log.counts(within_seconds=60)[0].jobs == 1
