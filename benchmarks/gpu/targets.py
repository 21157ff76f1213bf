"""What the figures of a run ought to be, and which are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One figure among the rows, and the bound that it ought to keep."""

    what: str
    part: str
    figure: str
    bound: float
    at_least: bool = True
    #: Which of the part's rows count; of several the best one does, or where all must hold the worst.
    labels: Mapping[str, Any]
    of_all: bool = False

    def judged(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the goal with the value that was found and "met", "missed" or "not measured"."""
        found = [
            row[self.figure]
            for row in rows
            if row["part"] == self.part
            and row.get(self.figure) is not None
            and all(row.get(name) == value for name, value in self.labels.items())
        ]
        target = {"what": self.what, "bound": f"{'≥' if self.at_least else '≤'} {self.bound:g}"}
        if not found:
            return target | {"value": None, "verdict": "not measured"}
        choose: Callable[[Sequence[float]], float] = max if self.at_least != self.of_all else min
        value = choose(found)
        met = value >= self.bound if self.at_least else value <= self.bound
        return target | {"value": value, "verdict": "met" if met else "missed"}


def judged(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Judge a run's rows by every goal, and the gain of batches by the pictures at both sizes."""
    return [goal.judged(rows) for goal in GOALS] + [_batching(rows, name, bound) for name, bound in _BATCHING.items()]


def _efficiency(model: str, title: str, bound: float) -> list[Goal]:
    return [
        Goal(
            what=f"{title} {how}: share of the matrix-product rate, whole pictures",
            part=part,
            figure="efficiency",
            bound=bound,
            labels={"model": model, "what": "pictures"},
        )
        for part, how in (("eager", "eager"), ("compiled", "compiled"))
    ]


_SD15, _SDXL = {"model": "sd15"}, {"model": "sdxl"}
GOALS = (
    *_efficiency("sdxl", "SDXL 1024²", 0.60),
    *_efficiency("sd15", "SD 1.5 512²", 0.45),
    Goal(what="SD 1.5: farm ÷ bare loop", part="farm", figure="farm_over_bare", bound=0.98, labels=_SD15, of_all=True),
    Goal(what="SDXL: farm ÷ bare loop", part="farm", figure="farm_over_bare", bound=0.98, labels=_SDXL, of_all=True),
    Goal(
        what="SD 1.5: farm ÷ a task per image", part="farm", figure="farm_over_task", bound=3, labels=_SD15, of_all=True
    ),
    Goal(
        what="SD 1.5: device idle between batches",
        part="farm",
        figure="idle_share",
        bound=0.01,
        at_least=False,
        labels=_SD15,
        of_all=True,
    ),
    Goal(
        what="SD 1.5, mixed pictures: slots ÷ one by one",
        part="slots",
        figure="mixed_over_one_by_one",
        bound=2.5,
        labels=_SD15,
    ),
    Goal(
        what="SD 1.5, pictures alike: slots ÷ batches",
        part="slots",
        figure="alike_over_batches",
        bound=1.0,
        labels=_SD15,
    ),
    Goal(
        what="SD 1.5: pictures by slots made again, identical",
        part="again",
        figure="identical_share",
        bound=1.0,
        labels=_SD15,
    ),
    Goal(
        what="real worker: an urgent picture beside a bulk render ÷ idle",
        part="worker",
        figure="over_idle",
        bound=1.3,
        at_least=False,
        labels={"what": "an urgent picture beside a bulk render"},
    ),
    Goal(what="real worker, folder: farm ÷ bare loop", part="worker", figure="farm_over_bare", bound=0.98, labels={}),
    *(
        Goal(
            what=f"a picture in a batch against alone, {dtype} (dB)",
            part="exactness",
            figure="db_batch_from_alone",
            bound=bound,
            labels={"what": "pictures", "dtype": dtype},
            of_all=True,
        )
        for dtype, bound in (("bfloat16", 45), ("float32", 60))
    ),
    Goal(
        what="model switch ÷ bytes over copy rate",
        part="switch",
        figure="over_copy",
        bound=1.5,
        at_least=False,
        labels={"how": "farm, again"},
    ),
    Goal(what="PNG per core ÷ Pillow's default", part="encode", figure="speed_ratio", bound=6, labels={}),
    Goal(what="PNG size ÷ Pillow's default", part="encode", figure="size_ratio", bound=1.0, at_least=False, labels={}),
)
#: Whole pictures a second at the knee ÷ at batch 1, the same model and precision.
_BATCHING = {"sd15": 4.0, "sdxl": 1.5}


def _batching(rows: Sequence[Row], model: str, bound: float) -> dict[str, Any]:
    rates = {
        row["batch"]: row["images_per_second"]
        for row in rows
        if row["part"] == "eager" and row.get("model") == model and "images_per_second" in row
    }
    target = {"what": f"{model}: pictures a second at the best batch ÷ at batch 1", "bound": f"≥ {bound:g}"}
    if 1 not in rates or len(rates) < 2:
        return target | {"value": None, "verdict": "not measured"}
    value = max(rates.values()) / rates[1]
    return target | {"value": value, "verdict": "met" if value >= bound else "missed"}
