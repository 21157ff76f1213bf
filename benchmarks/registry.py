"""Finds the scenarios: every module of `benchmarks/scenarios/`."""

import importlib
import pkgutil
from collections.abc import Callable

from benchmarks import scenarios
from benchmarks.scenario import Scenario


def all_scenarios(*, say: Callable[[str], None] = lambda _: None) -> dict[str, Scenario]:
    """Return each scenario by its name, and say which modules need a package that is missing.

    Raises ValueError if two have one name.
    """
    found: dict[str, Scenario] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__)):
        try:
            module = importlib.import_module(f"{scenarios.__name__}.{name}")
        except ModuleNotFoundError as error:
            say(f"left out: {name}: the package {error.name} is missing: pip install 'diffusion-farm[bench]'")
            continue
        for scenario in module.SCENARIOS if hasattr(module, "SCENARIOS") else [module.SCENARIO]:
            if found.setdefault(scenario.name, scenario) is not scenario:
                raise ValueError(f"two scenarios are called {scenario.name}")
    return found
