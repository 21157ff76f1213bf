"""Scenarios of benchmarks whose arms give what a test wants."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import results_file
from benchmarks.interleave import run_scenario
from benchmarks.scenario import Arm, Conditions, Figure, Figures, Open, Round, Scenario

SPEED = {"speed": Figure("speed", "1/s", "higher")}


def giving(values: Sequence[float], seen: list[str] | None = None, name: str = "") -> Open:
    """An arm whose rounds give these speeds in turn."""

    @contextmanager
    def opened(_: Conditions) -> Iterator[Round]:
        left = iter(values)

        def one_round() -> Figures:
            if seen is not None:
                seen.append(name)
            return {"speed": next(left)}

        yield one_round

    return opened


def raising(error: Exception, *, at_once: bool = False) -> Open:
    @contextmanager
    def opened(_: Conditions) -> Iterator[Round]:
        def one_round() -> Figures:
            raise error

        if at_once:
            raise error
        yield one_round

    return opened


def scenario(*arms: Arm, **more: Any) -> Scenario:
    return Scenario(
        **{
            "name": "race",
            "title": "A race",
            "measures": "How fast they are.",
            "limit": "light",
            "figures": SPEED,
            "arms": arms,
            **more,
        }
    )


def run(*arms: Arm, rounds: int = 3, seconds: float = 60, **more: Any) -> dict[str, Any]:
    return run_scenario(scenario(*arms, **more), seconds=seconds, rounds=rounds)


def arm_of(result: Mapping[str, Any], name: str) -> Any:
    return next(arm for arm in result["arms"] if arm["label"] == name)


def a_run(*scenarios: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schema": results_file.SCHEMA,
        "started": "2026-11-28T10:00:00+00:00",
        "seconds": 1.0,
        "commit": "abcdef0123456789",
        "dirty": False,
        "quick": False,
        "note": "",
        "versions": {"python": "3.11.7", "celery": "5.7.0", "dramatiq": None},
        "machine": {"processor": "p", "cores": 2, "memory_gib": 8.0, "system": "Linux 6"},
        "load_at_start": [0.1, 0.1, 0.1],
        "load_at_end": [1.0, 0.5, 0.1],
        "scenarios": list(scenarios),
        **more,
    }


def raced(*speeds: float, better: str = "higher", other: float = 1.0) -> dict[str, Any]:
    figures = {"speed": Figure("speed", "1/s", "higher" if better == "higher" else "lower")}
    return run(
        Arm("a", giving([0, *speeds])),
        Arm("b", giving([0, *[other] * len(speeds)])),
        rounds=len(speeds),
        figures=figures,
    )
