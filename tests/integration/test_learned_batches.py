"""A worker whose model's entry names no batch limit: with a real queue and database."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from storage.database.tables import learned_limits
from tests.integration.farm import Farm
from tests.servers import eventually

# What is kept and claimed is shown on both databases (tests/contract/test_learned_limits.py).
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("stores", ["postgresql+s3"], indirect=True)]


def calls_of(farm: Farm, render_id: str) -> list[int]:
    """Return how many pictures the calls of a render's pictures had, each once for each picture."""
    return [call[0] for row in farm.rows(render_id) if row.own_recipe for call in json.loads(row.own_recipe)["calls"]]


def learned(farm: Farm) -> list[Any]:
    with farm.services.database.read() as connection:
        return list(connection.execute(select(learned_limits.c.model, learned_limits.c.pictures)).all())


def test_a_worker_learns_from_much_and_takes_no_more_of_little_than_its_share(farm: Farm) -> None:
    worker = farm.workers(1, machine="first")
    much = farm.submit(300, model="learning")
    farm.finished(much)
    farm.assert_sound(much)

    [(model, pictures)] = learned(farm)
    assert (model, pictures > 8, max(calls_of(farm, much)) > 8) == ("learning", True, True)
    [shown] = farm.services.workers.all()
    assert shown.limit_reason in ("learned", "trial")
    worker.terminate()
    worker.wait()

    # Three that have nothing to do: of twenty, six are a worker's share, and it takes eight, as ever.
    farm.workers(3, machine="second")
    few = farm.submit(20, model="learning")
    farm.finished(few)
    assert max(calls_of(farm, few)) <= 8

    # And the next worker, of a process of its own, begins with what is known.
    again = farm.submit(300, model="learning")
    eventually(lambda: max(calls_of(farm, again), default=0) > 8, "larger calls of what was learned before")
    farm.finished(again)
    farm.assert_sound(again)
