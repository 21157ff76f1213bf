"""Finds the scenarios: every module of `benchmarks/scenarios/`."""

import importlib
import pkgutil
from collections.abc import Iterable

from benchmarks import scenarios
from benchmarks.scenario import Scenario


def all_scenarios(modules: Iterable[str] | None = None) -> dict[str, Scenario]:
    """Return each scenario by its name. Raises ValueError if two have one name."""
    found: dict[str, Scenario] = {}
    for name in (
        sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__)) if modules is None else modules
    ):
        module = importlib.import_module(f"{scenarios.__name__}.{name}")
        for scenario in module.SCENARIOS if hasattr(module, "SCENARIOS") else [module.SCENARIO]:
            if found.setdefault(scenario.name, scenario) is not scenario:
                raise ValueError(f"two scenarios are called {scenario.name}")
    return found
