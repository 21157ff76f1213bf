"""A manifest whose submitter, scheduler process and workers are killed again and again: each row one picture, once.

`pytest tests/integration/test_bulk_kills.py --prompts 2000 --kills 30` for the long run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import select

from storage.database.tables import renders
from tests.integration.farm import SHORT_LEASES, Farm, kill_machine
from tests.servers import PATIENCE_SECONDS, eventually


def test_every_row_of_a_manifest_becomes_one_picture_whoever_is_killed(
    farm: Farm, request: pytest.FixtureRequest
) -> None:
    prompts, kills = int(request.config.getoption("--prompts")), int(request.config.getoption("--kills"))
    dice = random.Random(prompts)
    # Who is killed so often burns attempts of jobs that are not to blame.
    farm.environment |= SHORT_LEASES | {"FARM_MAX_ATTEMPTS": "50"}
    manifest = farm.folder / "prompts.jsonl"
    rows = [{"prompt": f"picture {n}", "model": "slow", "custom_id": f"row {n}"} for n in range(prompts)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    # Forked, it takes a fraction of a second.
    killed = [submitter_killed_after(farm, dice.uniform(0.02, 0.5)) for _ in range(kills // 3)].count(True)
    assert submitter(farm).wait(PATIENCE_SECONDS) == 0
    parts = {
        "scheduler": farm.scheduler(),
        "one": farm.workers(1, machine="one"),
        "two": farm.workers(1, machine="two"),
    }
    [render_id] = submitted(farm)
    while killed < kills and not farm.render(render_id).finished:
        name = dice.choice(list(parts))
        if name == "scheduler":
            parts[name].kill()
            parts[name] = farm.scheduler()
        else:
            kill_machine(parts[name])
            parts[name] = farm.machine(1, name=name)
        killed += 1
        done = farm.render(render_id).done
        eventually(lambda done=done: went_on(farm, render_id, done), "the work goes on")  # type: ignore[misc]
        # Not a wait for anything: the moment of the next death.
        time.sleep(dice.uniform(0, 0.3))

    assert farm.finished(render_id, timeout=240).done == prompts
    farm.assert_sound(render_id)
    assert [row.custom_id for row in farm.rows(render_id)] == [row["custom_id"] for row in rows]
    assert submitter(farm).wait(PATIENCE_SECONDS) == 0
    assert submitted(farm) == [render_id]
    # On a machine with much else to do the work may be done before many die; how many is printed.
    assert killed, "nobody was killed"
    print(f"{prompts} rows, {killed} kills, {sum(row.fence > 1 for row in farm.rows(render_id))} made again")  # noqa: T201


def went_on(farm: Farm, render_id: str, done: int) -> bool:
    render = farm.render(render_id)
    return render.done > done or render.finished


def submitter(farm: Farm) -> subprocess.Popen[bytes]:
    """`farm render` of the manifest, as a script would run it until it succeeds."""
    with open(os.devnull, "wb") as nowhere:
        return farm.starter.start(
            [
                *(sys.executable, "-m", "scheduler.cli.main", "render"),
                *("--prompts", str(farm.folder / "prompts.jsonl"), "--once", "tonight", "--owner", "ann", "--no-wait"),
            ],
            env=farm.environment,
            stdout=nowhere,
            stderr=nowhere,
        )


def submitter_killed_after(farm: Farm, seconds: float) -> bool:
    """Whether it was killed before it ended."""
    process = submitter(farm)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def submitted(farm: Farm) -> list[str]:
    with farm.services.database.read() as connection:
        return [*connection.execute(select(renders.c.id)).scalars()]
