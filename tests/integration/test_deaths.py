"""What is killed, stopped or told to stop, and what becomes of its jobs."""

import signal

import psutil
from sqlalchemy import select

from storage.database.connection import database_now
from storage.rules.states import State
from tests.integration.farm import SHORT_LEASES, Farm, child_of, device_processes, kill_machine, resume
from tests.servers import PATIENCE_SECONDS, eventually


def test_a_worker_killed_in_mid_batch_is_replaced_and_every_job_is_done_once(farm: Farm) -> None:
    farm.scheduler()
    supervisor = farm.workers(2)
    render_id = farm.submit(48, model="slow")
    farm.some_done(render_id)

    killed = device_processes(supervisor)["simulated:0"]
    child_of(killed).kill()
    killed.kill()

    farm.finished(render_id)
    farm.assert_sound(render_id)
    assert farm.render(render_id).done == 48
    eventually(lambda: "simulated:0" in device_processes(supervisor), "the device has a worker again")
    assert device_processes(supervisor)["simulated:0"].pid != killed.pid


def test_a_device_process_that_dies_gives_its_jobs_back_within_seconds(farm: Farm) -> None:
    # No scheduler process, no short lease: nobody but the parent can know.
    supervisor = farm.workers(1, FARM_LEASE_SECONDS="600")
    render_id = farm.submit(24, model="slow")
    eventually(lambda: running(farm, render_id), "a batch is running")

    child_of(device_processes(supervisor)["simulated:0"]).kill()

    eventually(lambda: any(row.attempt == 2 for row in farm.rows(render_id)), "the jobs are claimed again")
    farm.finished(render_id)
    farm.assert_sound(render_id)


def test_jobs_of_a_machine_that_vanished_are_done_elsewhere_after_their_lease(farm: Farm) -> None:
    farm.scheduler()
    vanishing = farm.workers(1, machine="vanishing", **SHORT_LEASES)
    render_id = farm.submit(24, model="slow")
    eventually(lambda: running(farm, render_id), "a batch is running")
    kill_machine(vanishing)
    held = running(farm, render_id)
    assert held

    farm.workers(1, machine="staying")
    farm.finished(render_id)

    farm.assert_sound(render_id)
    assert {row.worker for row in farm.rows(render_id) if row.id in held} == {"simulated-0@staying"}


def running(farm: Farm, render_id: str) -> set[int]:
    return {row.id for row in farm.rows(render_id) if row.state == State.RUNNING}


def test_a_second_machine_of_the_same_name_is_refused_and_harms_nothing(farm: Farm) -> None:
    farm.workers(1, machine="twin")
    render_id = farm.submit(16, model="slow")
    farm.some_done(render_id)

    second = farm.machine(1, name="twin")

    assert second.wait(PATIENCE_SECONDS) == 2
    # It writes where the first one did.
    said = (farm.folder / "workers-twin.log").read_text()
    assert "a worker with the name simulated-0@twin is running already" in said
    farm.finished(render_id)
    farm.assert_sound(render_id)
    assert {row.attempt for row in farm.rows(render_id)} == {1}


def test_a_worker_that_wakes_after_its_lease_changes_nothing(farm: Farm) -> None:
    farm.scheduler()
    sleeper = farm.workers(1, machine="sleeper", **SHORT_LEASES)
    # Three batches of a second each: of one alone, a busy machine may see no more than its end.
    render_id = farm.submit(24, model="slow")
    eventually(lambda: running(farm, render_id), "a batch is running")
    asleep = farm.freeze(sleeper)
    farm.workers(1, machine="other")
    farm.finished(render_id)
    before = farm.rows(render_id)

    resume(asleep)
    afterwards = farm.submit(8, model="quick")
    farm.finished(afterwards)
    eventually(lambda: all(w.state == "idle" for w in farm.services.workers.all()), "both are idle")

    assert farm.rows(render_id) == before
    farm.assert_sound(render_id)


def test_a_job_that_kills_its_process_each_time_fails_after_three_attempts(farm: Farm) -> None:
    supervisor = farm.workers(1)
    render_id = farm.submit(1, model="endless")

    for attempt in (1, 2, 3):
        eventually(
            lambda attempt=attempt: (  # type: ignore[misc]
                [(row.attempt, row.state) for row in farm.rows(render_id)] == [(attempt, State.RUNNING)]
            ),
            f"attempt {attempt} is running",
        )
        child_of(device_processes(supervisor)["simulated:0"]).kill()

    assert farm.finished(render_id).failed == 1
    assert "died" in farm.rows(render_id)[0].error


def test_a_stopping_worker_finishes_and_stores_its_batch(farm: Farm) -> None:
    supervisor = farm.workers(1)
    render_id = farm.submit(480, model="slow")
    # What has not begun would go back at once.
    eventually(lambda: any(worker.slots for worker in farm.services.workers.all()), "the first pictures have begun")

    supervisor.send_signal(signal.SIGTERM)
    with farm.services.database.read() as connection:
        asked = connection.execute(select(database_now())).scalar_one()

    assert supervisor.wait(PATIENCE_SECONDS) == 0
    assert not running(farm, render_id)
    done = [row for row in farm.rows(render_id) if row.state == State.DONE]
    assert len(done) in range(8, 480, 8)
    # Until every part of it has heard, one more may begin.
    assert len([row for row in done if row.started_at > asked]) <= 8
    assert farm.services.workers.all() == []


def test_a_second_request_to_stop_gives_the_jobs_back_without_burning_an_attempt(farm: Farm) -> None:
    supervisor = farm.workers(1)
    render_id = farm.submit(8, model="endless")
    eventually(lambda: farm.rows(render_id)[0].state == State.RUNNING, "the batch is running")

    supervisor.send_signal(signal.SIGTERM)
    eventually(lambda: b"stopping" in (farm.folder / "workers-here.log").read_bytes(), "it is stopping")
    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(PATIENCE_SECONDS) == 0
    assert {(row.state, row.attempt) for row in farm.rows(render_id)} == {(State.QUEUED, 0)}


def test_the_grace_period_ends_a_stop_that_takes_too_long(farm: Farm) -> None:
    supervisor = farm.workers(1, FARM_GRACE_SECONDS="0.2")
    render_id = farm.submit(8, model="endless")
    eventually(lambda: farm.rows(render_id)[0].state == State.RUNNING, "the batch is running")

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(PATIENCE_SECONDS) == 0
    assert {(row.state, row.attempt) for row in farm.rows(render_id)} == {(State.QUEUED, 0)}


def test_workers_end_when_their_supervisor_is_killed(farm: Farm) -> None:
    supervisor = farm.workers(2)
    processes = psutil.Process(supervisor.pid).children(recursive=True)

    supervisor.kill()

    eventually(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes),
        "every process of the machine has ended",
    )
