"""A registry that is edited while a farm runs: what is added is used, what is wrong changes nothing, what is removed
waits."""

import pytest

from tests.acceptance.command import Home
from tests.servers import eventually

FAST = '[models.{}]\nkind = "simulated"\nwidth = 64\nheight = 64\nnum_inference_steps = 2\nseconds_per_step = 0.01\n'


@pytest.fixture
def farm(home: Home) -> Home:
    home.path.mkdir(exist_ok=True)
    slow = f"{FAST.format('slow')}seconds_per_step_and_picture = 0.3\nbatch_limit = 1\n"
    (home.path / "models.toml").write_text(FAST.format("first") + slow)
    return home


def test_a_model_that_is_added_is_rendered_by_the_farm_that_runs(farm: Home) -> None:
    file = farm.path / "models.toml"
    with farm.started("up") as up:
        up.says("is up")
        workers = farm.process("worker.process.supervisor")
        assert workers is not None
        assert farm.farm("render", "--model", "first", "a star", "--no-wait").code == 0
        eventually(lambda: farm.rows("SELECT 1 FROM jobs WHERE state = 'done'"), "the first is rendered")

        file.write_text(file.read_text() + FAST.format("second"))
        farm.farm("render", "--model", "second", "a star", "--no-wait")
        eventually(
            lambda: farm.rows("SELECT 1 FROM jobs WHERE state = 'done' AND model = 'second'"), "the second is rendered"
        )
        eventually(lambda: "second" in str(farm.rows("SELECT models FROM workers")), "the worker tells of it")

        # Wrong: what runs goes on, and doctor says what is wrong.
        right = file.read_text()
        file.write_text(right + "steps = 4\n")
        doctor = farm.farm("doctor", code=3).out
        assert "steps here is num_inference_steps; what runs goes on with the entries before it" in doctor
        up.says("the entries before it stay until it is corrected")
        file.write_text(right)

        # Removed while its jobs wait, and there again.
        waiting = farm.farm("render", "--model", "slow", "a star", "-n", "30", "--no-wait").out.strip()
        eventually(lambda: farm.rows(f"SELECT 1 FROM renders WHERE id = '{waiting}' AND done > 0"), "some are done")
        file.write_text(FAST.format("first"))
        eventually(lambda: "slow" not in str(farm.rows("SELECT models FROM workers")), "the worker has heard")
        running = f"SELECT 1 FROM jobs WHERE render_id = '{waiting}' AND state = 'running'"
        eventually(lambda: not farm.rows(running), "what had begun is finished")
        assert farm.rows(f"SELECT 1 FROM renders WHERE id = '{waiting}' AND done < total")
        why = farm.farm("why", waiting).out
        assert (
            "no worker serves slow, which is not in the registry any more (add it again, or cancel the render)" in why
        )
        file.write_text(right)
        farm.wait_until_done(waiting)

        assert workers.is_running()
        assert up.interrupted().code == 0


def test_a_worker_that_is_killed_while_the_file_is_wrong_starts_with_what_was_right_before(farm: Home) -> None:
    file = farm.path / "models.toml"
    with farm.started("up") as up:
        up.says("is up")
        # Followed since the worker started: what it was started with is not the last that was right.
        slow = f"{FAST.format('second')}seconds_per_step_and_picture = 0.3\nbatch_limit = 1\n"
        file.write_text(file.read_text() + slow)
        eventually(lambda: "second" in str(farm.rows("SELECT models FROM workers")), "the worker tells of it")
        waiting = farm.farm("render", "--model", "second", "a star", "-n", "12", "--no-wait").out.strip()
        eventually(lambda: farm.rows(f"SELECT 1 FROM renders WHERE id = '{waiting}' AND done > 0"), "some are done")

        right = file.read_text()
        file.write_text(right + "steps = 4\n")
        up.says("the entries before it stay until it is corrected")
        worker = farm.process("worker.process.parent")
        assert worker is not None
        for process in (worker, *worker.children(recursive=True)):
            process.kill()
        farm.wait_until_done(waiting)
        again = farm.process("worker.process.parent")
        assert again is not None
        assert again.pid != worker.pid
        assert "second" in str(farm.rows("SELECT models FROM workers"))

        # It follows the file again, too.
        file.write_text(right + FAST.format("third"))
        eventually(lambda: "third" in str(farm.rows("SELECT models FROM workers")), "what is added is served")
        assert up.interrupted().code == 0
