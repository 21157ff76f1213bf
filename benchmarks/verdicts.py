"""Whether a target is met, in the words of the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.scenario import named

Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target, and what was measured of it."""

    number: str
    #: What is compared, at which setting.
    what: str
    wanted: str
    #: Median, min, max; None: not measured.
    found: Mapping[str, float] | None
    met: bool
    why: str | None


def verdicts(scenario: Results) -> Iterator[Verdict]:
    """Return a verdict for each target of a scenario at each setting; the median decides."""
    for target in scenario["targets"]:
        arms = [arm for arm in scenario["arms"] if arm["name"] == target["arm"] and _is_asked(arm, target)]
        for arm in arms:
            found, why = _found(scenario, target, arm)
            met = found is not None and (
                found["median"] >= target["value"] if target["relation"] == ">=" else found["median"] <= target["value"]
            )
            unit = "×" if target["over"] else scenario["figures"][target["figure"]]["unit"]
            sign = "≥" if target["relation"] == ">=" else "≤"
            over = f" ÷ {named(target['over'], target['over_at'])}" if target["over"] else ""
            title = scenario["figures"][target["figure"]]["title"]
            yield Verdict(
                number=target["number"],
                what=f"{title}, {arm['label']}{over}",
                wanted=f"{sign} {target['value']:g} {unit}",
                found=found,
                met=met,
                why=why,
            )


def _found(
    scenario: Results, target: Mapping[str, Any], arm: Mapping[str, Any]
) -> tuple[Mapping[str, float] | None, str | None]:
    """The figure or ratio that a target is about, or why there is none."""
    if target["over"] is None:
        return arm["figures"].get(target["figure"]), arm["why"]
    asked = (target["figure"], target["arm"], target["over"], target["over_at"], arm["at"])
    for one in scenario["ratios"]:
        if (one["figure"], one["arm"], one["over"], one["over_at"], one["at"]) == asked:
            return one, None
    others = [one["why"] for one in scenario["arms"] if one["name"] == target["over"] and one["why"]]
    return None, arm["why"] or next(iter(others), "not measured")


def _is_asked(arm: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Whether an arm is at the target's setting, and not what it is compared with."""
    is_other = target["over"] == arm["name"] and target["over_at"].items() <= arm["at"].items()
    return target["at"].items() <= arm["at"].items() and not is_other
