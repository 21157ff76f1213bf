"""A short storm with a fixed seed on each database; `make chaos` runs longer ones, of processes that are not forked."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.plan import DatabaseKind, Spell, short_plan
from tests.chaos.run import run
from tests.forks import Starter


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_or_done_twice_whatever_is_killed(
    database: DatabaseKind, starter: Starter, tmp_path: Path
) -> None:
    # Forked, a command takes a fraction of a second.
    lives = Spell(shortest=0.05, longest=0.8)
    plan = replace(short_plan(seed=1, seconds=10, database=database), starter=starter, command_lives=lives)

    verdict = run(plan, tmp_path, lambda _: None)

    assert verdict.violations == []
    assert verdict.figures.done > 0
    assert verdict.figures.kills > 0
