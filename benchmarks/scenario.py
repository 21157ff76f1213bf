"""What a scenario of the benchmarks is: arms that do the same work, measured in turns.

A module of `benchmarks/scenarios/` exports `SCENARIO`, or a list named `SCENARIOS`:

    @contextmanager
    def _delay(conditions: Conditions) -> Iterator[Round]:
        app = Celery(broker=conditions.servers.redis())
        n = 200 if conditions.quick else 5000

        def one_round() -> Figures:
            started = time.perf_counter()
            for number in range(n):
                app.send_task("render", kwargs={"prompt": f"a red star, number {number}"})
            return {"rows_per_second": n / (time.perf_counter() - started)}

        yield one_round

    SCENARIO = Scenario(
        name="submit", title="Accepting a manifest", measures="Rows a second, from the command's start to its end.",
        limit="SQLAlchemy and the database's disk", figures={"rows_per_second": Figure("rows", "1/s", "higher")},
        arms=[Arm("farm", _farm), Arm("Celery .delay", _delay, modules=("celery",))],
        targets=[Target("5", "rows_per_second", "farm", ">=", 20, over="Celery .delay")],
    )
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.packages import is_here
from benchmarks.servers import Servers, Unavailable

__all__ = [
    "LEAST_ROUNDS",
    "Arm",
    "Conditions",
    "Figure",
    "Figures",
    "Measured",
    "Plot",
    "Round",
    "Scenario",
    "Series",
    "Servers",
    "Target",
    "Unavailable",
]

LEAST_ROUNDS = 7

Figures = Mapping[str, float]
#: Name of a line → its points, (x, y), in the order in which they were seen.
Series = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a round gives that has curves, too, such as memory over the jobs done."""

    figures: Figures
    series: Series


#: Runs one round of an arm. What it raises fails the arm.
Round = Callable[[], Figures | Measured]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What every arm of a scenario is opened with."""

    #: Sizes for a smoke test: the figures mean nothing.
    quick: bool
    #: How long one round of one arm should take, so that all of them fit into the scenario's share of the time.
    round_seconds: float
    #: Empty, the scenario's own, removed at its end.
    folder: Path
    servers: Servers
    #: A checkout of another build of the farm to measure beside this one (`--against`).
    against: Path | None = None


Open = Callable[[Conditions], AbstractContextManager[Round]]


@dataclass(frozen=True)
class Figure:
    """A number that each round of each arm gives, unless an arm has none of it."""

    title: str
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Arm:
    """One way to do the work. Arms of one name at several settings (`at`) are points of a curve."""

    name: str
    open: Open
    modules: tuple[str, ...] = ()
    """Importable names that it needs."""
    programs: tuple[str, ...] = ()
    install: str = "pip install 'diffusion-farm[bench]'"
    """How to get what it needs."""
    at: Mapping[str, float | str] = field(default_factory=dict)
    along: Mapping[str, float] = field(default_factory=dict)
    """Where it is on a plot's axis that is no setting of its own."""
    line: str = ""
    """To which line of such a plot it belongs."""
    other_build: bool = False
    """Whether it measures the build that `--against` names."""

    @property
    def label(self) -> str:
        """Its name and setting; unlike that of any other arm of the scenario."""
        return named(self.name, self.at)

    def missing(self, against: Path | None = None) -> str | None:
        """Say what it needs and is not here, and how to get it; None if it can run."""
        if self.other_build and against is None:
            return "no other build of the farm is named: --against CHECKOUT"
        missing = [f"the package {name}" for name in self.modules if not is_here(name)]
        missing += [f"the program {name}" for name in self.programs if shutil.which(name) is None]
        return (
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: {self.install}"
            if missing
            else None
        )


@dataclass(frozen=True)
class Target:
    """What a figure of an arm has to be: an amount, or a ratio to another arm's."""

    number: str
    """In the table of targets (benchmarks/README.md)."""
    figure: str
    arm: str
    relation: Literal[">=", "<="]
    value: float
    over: str | None = None
    """The other arm's name; None: `value` is in the figure's unit."""
    over_at: Mapping[str, float | str] = field(default_factory=dict)
    """In what the other arm's setting differs: `over="farm", over_at={"waiting": 1000}` asks how flat it is."""
    at: Mapping[str, float | str] = field(default_factory=dict)
    """Only arms at this setting; empty: at each."""


@dataclass(frozen=True)
class Plot:
    """A line for each arm's name (and each other setting), over a setting `x`; None: the series of the last round."""

    title: str
    figure: str
    x: str | None = None
    logarithmic: bool = False
    x_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is measured, of which arms. Raises ValueError if it contradicts itself."""

    name: str
    title: str
    measures: str
    """In one sentence."""
    limit: str
    """What the best possible figure is, or depends on."""
    figures: Mapping[str, Figure]
    """The first is the one by which arms are compared."""
    arms: Sequence[Arm]
    targets: Sequence[Target] = ()
    plots: Sequence[Plot] = ()
    rounds: int = LEAST_ROUNDS
    warm_up: int = 1
    """Rounds before, which are not counted."""
    share: float = 30.0
    """Of the whole time, relative to the other scenarios'; seconds, if together they are to take ten minutes."""
    tier: Literal["cpu", "long"] = "cpu"
    """`long` runs only if it is named."""

    def __post_init__(self) -> None:
        labels, names = [arm.label for arm in self.arms], {arm.name for arm in self.arms}
        if self.rounds < LEAST_ROUNDS:
            raise ValueError(f"scenario {self.name}: at least {LEAST_ROUNDS} rounds")
        if len(set(labels)) < len(labels):
            raise ValueError(f"scenario {self.name}: two arms are called alike: {labels}")
        for target in self.targets:
            if target.figure not in self.figures or not {target.arm, target.over or target.arm} <= names:
                raise ValueError(f"scenario {self.name}: target {target.number} names no figure or no arm of it")
        for plot in self.plots:
            if plot.figure not in self.figures:
                raise ValueError(f"scenario {self.name}: a plot of {plot.figure}, which is no figure of it")


def named(name: str, at: Mapping[str, float | str]) -> str:
    """Return an arm's name with its setting."""
    return ", ".join([name, *(f"{setting} {_number(value)}" for setting, value in at.items())])


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}".replace(",", " ")
