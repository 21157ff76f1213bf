"""What a chaos run is asked for: everything that its course depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from tests.forks import Starter

DatabaseKind = Literal["sqlite", "postgresql"]

MACHINES = ("a", "b", "c")
SCHEDULERS = ("scheduler-1", "scheduler-2")

#: Two models, so that workers have to choose; a batch takes 160 and 290 ms, so that kills hit its middle.
MODELS = """
[models.swift]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 2
seconds_per_step = 0.05
seconds_per_step_and_picture = 0.004

[models.steady]
kind = "simulated"
width = 32
height = 32
num_inference_steps = 4
seconds_per_step = 0.05
seconds_per_step_and_picture = 0.003
"""
MODEL_NAMES = ("swift", "steady")

#: An owner with a key that may have so many unfinished pictures.
LIMITED = "lim"
MOST_QUEUED = 6


@dataclass(frozen=True, kw_only=True)
class Spell:
    """A length of time in seconds, drawn anew each time."""

    shortest: float
    longest: float

    def draw(self, rng: Random) -> float:
        return rng.uniform(self.shortest, self.longest)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. Durations are in seconds."""

    seed: int
    #: How long faults are injected.
    seconds: float
    database: DatabaseKind
    #: The least number of jobs to accept; faults go on until then.
    jobs: int
    lease: float
    #: Time between one fault and the next, and how many there may be at once.
    between: Spell
    at_once: int
    #: How long a service is away, and how long a cable is cut.
    outage: Spell
    #: How long a killed machine stays down.
    down: Spell
    #: How long a machine is frozen: past its lease.
    frozen: Spell
    grace: float
    #: Jobs are submitted while fewer than this many wait.
    backlog: int
    most_jobs_a_render: int
    #: Time between two runs of `farm render`, whose start alone takes a second of a core unless it is forked.
    between_commands: Spell
    #: After how long half of them are killed: somewhere, many while they write.
    command_lives: Spell
    #: How many machines have clocks that lie: their processes cannot be forked, and each start takes seconds of a core.
    lying_clocks: int
    #: Time between one cancel or retry and the next.
    between_cancels: Spell
    #: How long a worker may take to render again once the faults have ceased (Celery asks an absent Redis again after
    #: pauses of up to 32 s).
    comeback: float
    #: How long the work that is left may take once the faults have ceased.
    settle: float
    #: Whether the calm finds the marks of schedulers that were killed run out, for which it would wait three minutes.
    marks_run_out: bool
    #: Whether it counts as a violation if the API answers late: not where many tests share a machine.
    judges_speed: bool
    #: More settings of the farm, by name (FARM_…).
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Starts scheduler processes, machines and the API; as in use, unless another is given.
    starter: Starter = field(default_factory=Starter, repr=False)

    def environment(self, home: Path, models: Path) -> dict[str, str]:
        """The farm's settings but for the addresses."""
        return {
            "FARM_HOME": str(home),
            "FARM_MODELS_FILE": str(models),
            "FARM_LEASE_SECONDS": f"{self.lease:g}",
            "FARM_RENEW_SECONDS": f"{max(1.0, self.lease / 4):g}",
            "FARM_SWEEP_SECONDS": "0.5" if self.lease < 10 else "2",
            "FARM_GRACE_SECONDS": f"{self.grace:g}",
            "FARM_TURN_SECONDS": "3" if self.lease < 10 else "10",
            # Random kills look like a poison job.
            "FARM_MAX_ATTEMPTS": "10",
            "FARM_WEBHOOK_PRIVATE": "true",
            **self.settings,
        }


def short_plan(*, seed: int, seconds: float, database: DatabaseKind, jobs: int = 0) -> Plan:
    """Everything happens within seconds: for the test suite."""
    return Plan(
        seed=seed,
        seconds=seconds,
        database=database,
        jobs=jobs,
        lease=4,
        between=Spell(shortest=0.1, longest=0.6),
        at_once=4,
        outage=Spell(shortest=0.3, longest=1.5),
        down=Spell(shortest=0, longest=1),
        frozen=Spell(shortest=4.5, longest=5.5),
        grace=3,
        backlog=96,
        most_jobs_a_render=40,
        between_commands=Spell(shortest=1, longest=3),
        # Most of its time goes into starting.
        command_lives=Spell(shortest=0.8, longest=2.5),
        lying_clocks=1,
        between_cancels=Spell(shortest=0.5, longest=1.5),
        comeback=90,
        judges_speed=False,
        settle=180,
        marks_run_out=True,
    )


def long_plan(
    *,
    seed: int,
    seconds: float,
    database: DatabaseKind,
    jobs: int = 0,
    lease: float = 30,
) -> Plan:
    """Durations as in earnest."""
    return Plan(
        seed=seed,
        seconds=seconds,
        database=database,
        jobs=jobs,
        lease=lease,
        between=Spell(shortest=1.5, longest=6),
        at_once=4,
        outage=Spell(shortest=1, longest=10),
        down=Spell(shortest=1, longest=15),
        frozen=Spell(shortest=1.2 * lease, longest=1.5 * lease),
        grace=20,
        backlog=900,
        most_jobs_a_render=200,
        between_commands=Spell(shortest=2, longest=8),
        command_lives=Spell(shortest=0.8, longest=2.5),
        lying_clocks=len(MACHINES),
        between_cancels=Spell(shortest=2, longest=8),
        comeback=75,
        judges_speed=True,
        settle=240 + 4 * lease,
        marks_run_out=False,
    )
