"""Runs the arms of a scenario in turns, and says what each gave."""

import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scenario import Arm, Conditions, Figures, Measured, Round, Scenario, Series, Servers, Unavailable
from benchmarks.summary import figures_of, ratio

#: Of a scenario's time for its rounds; the rest starts servers and fills tables.
_MEASURING = 0.75
#: A shorter round measures nothing, however late it is.
_LEAST_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass
class _Running:
    """An arm and what has become of it."""

    arm: Arm
    run: Round | None = None
    status: str = "measured"
    why: str | None = None
    rounds: list[Figures] = field(default_factory=list)
    series: Series | None = None

    def ends(self, status: str, why: str) -> None:
        self.run, self.status, self.why, self.rounds = None, status, why, []


def run_scenario(
    scenario: Scenario,
    *,
    seconds: float,
    rounds: int | None = None,
    quick: bool = False,
    against: Path | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure each arm that can run, round by round, and return the scenario's part of a results file.

    `seconds` is its share of the time: the rounds stop when it is used up, after two at least. An arm that needs what
    is not here is left out; one that raises has failed, and the others go on.
    """
    started, wanted = time.monotonic(), rounds or scenario.rounds
    running = [_Running(arm) for arm in scenario.arms]
    arms = sum(arm.missing(against) is None for arm in scenario.arms)
    each = max(_LEAST_SECONDS, seconds * _MEASURING / (max(1, arms) * (wanted + scenario.warm_up)))
    result: dict[str, Any] | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="farm-bench-", ignore_cleanup_errors=True) as name, ExitStack() as held:
            servers = held.enter_context(Servers(Path(name)))
            for number, one in enumerate(running):
                folder = Path(name, str(number))
                folder.mkdir()
                conditions = Conditions(
                    quick=quick, round_seconds=each, folder=folder, servers=servers, against=against
                )
                _open(one, conditions, held, say)
            done = _rounds(scenario, running, wanted, started + seconds, say)
            result = _result(scenario, running, done, wanted)
    except Exception as error:
        if result is None:
            raise
        # What was measured before stays.
        result["closing"] = _told(error)
        say(f"  failed at its end: {result['closing']}")
    return result | {"seconds": round(time.monotonic() - started, 1)}


def _open(one: _Running, conditions: Conditions, held: ExitStack, say: Say) -> None:
    say(f"  prepares {one.arm.label}")
    if missing := one.arm.missing(conditions.against):
        one.ends("missing", missing)
    else:
        try:
            one.run = held.enter_context(one.arm.open(conditions))
        except Unavailable as error:
            one.ends("missing", str(error))
        except ModuleNotFoundError as error:
            one.ends("missing", f"the package {error.name} is missing: {one.arm.install}")
        except Exception as error:  # noqa: BLE001 - whatever an arm raises costs its own row only, and is told
            one.ends("failed", _told(error))
    if one.why:
        say(f"  {one.arm.label}: {'left out' if one.status == 'missing' else 'failed'}: {one.why}")


def _rounds(scenario: Scenario, running: list[_Running], wanted: int, deadline: float, say: Say) -> int:
    """Run the rounds and return how many were counted."""
    done = longest = 0.0
    for number in range(scenario.warm_up + wanted):
        before = time.monotonic()
        if number >= scenario.warm_up + 2 and before + longest > deadline:
            say(f"  stops after {done:.0f} of {wanted} rounds: its share of the time is used up")
            break
        counted = number >= scenario.warm_up
        # Neither is always the first.
        for one in reversed(running) if number % 2 else running:
            if one.run is not None:
                _round(one, one.run, counted, say)
        longest = max(longest, time.monotonic() - before)
        done += counted
        if not any(one.run for one in running):
            break
        say(f"  round {done:.0f} of {wanted}: {_line(scenario, running)}" if counted else "  warmed up")
    return int(done)


def _round(one: _Running, run: Round, counted: bool, say: Say) -> None:
    try:
        given = run()
    except Unavailable as error:
        one.ends("missing", str(error))
    except Exception as error:  # noqa: BLE001 - as above
        one.ends("failed", _told(error))
    else:
        if isinstance(given, Measured):
            one.series = given.series
        if counted:
            one.rounds.append(dict(given.figures if isinstance(given, Measured) else given))
        return
    say(f"  {one.arm.label}: {'left out' if one.status == 'missing' else 'failed'}: {one.why}")


def _told(error: Exception) -> str:
    """The error in a line, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:1000]} ({Path(where.filename).name}:{where.lineno})"


def _line(scenario: Scenario, running: list[_Running]) -> str:
    first = next(iter(scenario.figures))
    return "; ".join(
        f"{one.arm.label} {one.rounds[-1][first]:.4g}" for one in running if one.rounds and first in one.rounds[-1]
    )


def _result(scenario: Scenario, running: list[_Running], done: int, wanted: int) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "title": scenario.title,
        "measures": scenario.measures,
        "limit": scenario.limit,
        "figures": {name: asdict(figure) for name, figure in scenario.figures.items()},
        "targets": [asdict(target) for target in scenario.targets],
        "plots": [asdict(plot) for plot in scenario.plots],
        "rounds": done,
        "rounds_wanted": wanted,
        "closing": None,
        "arms": [
            {
                "name": one.arm.name,
                "label": one.arm.label,
                "at": dict(one.arm.at),
                "along": dict(one.arm.along),
                "line": one.arm.line,
                "status": one.status,
                "why": one.why,
                "rounds": one.rounds,
                "figures": figures_of(one.rounds),
                "series": one.series,
            }
            for one in running
        ],
        "ratios": _ratios(scenario, running),
    }


def _ratios(scenario: Scenario, running: list[_Running]) -> list[dict[str, Any]]:
    """Those that targets name, and the first figure of the first arm over each other one, at the same setting."""
    first = next(iter(scenario.figures))
    asked = [(one.figure, one.arm, one.over, tuple(one.over_at.items())) for one in scenario.targets if one.over]
    others = [arm.name for arm in scenario.arms if arm.name != scenario.arms[0].name]
    asked += [(first, scenario.arms[0].name, name, ()) for name in others]
    return [
        {"figure": figure, "arm": name, "over": over, "over_at": dict(over_at), "at": dict(one.arm.at), **found}
        for figure, name, over, over_at in dict.fromkeys(asked)
        for one in running
        for other in running
        # The other arm may know fewer settings: procrastinate has no batches.
        if (one.arm.name, other.arm.name) == (name, over) and one is not other
        if other.arm.at.items() <= {**one.arm.at, **dict(over_at)}.items()
        if (found := ratio(one.rounds, other.rounds, figure))
    ]
