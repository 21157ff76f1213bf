"""Draws what grows: figures over a setting (waiting jobs, workers, batch), and series such as memory over jobs."""

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Name of a line → (x, y, least y, greatest y) by x.
Lines = Mapping[str, Sequence[tuple[float, float, float, float]]]


def draw(scenarios: Sequence[Mapping[str, Any]], folder: Path, *, say: Callable[[str], None]) -> dict[str, list[Path]]:
    """Draw the plots of scenarios as SVG and return the files by scenario; without matplotlib the old ones stay."""
    if not any(scenario["plots"] for scenario in scenarios):
        return {}
    here = importlib.util.find_spec("matplotlib") is not None
    if not here:
        say("no plots are drawn: the package matplotlib is missing: pip install 'diffusion-farm[bench]'")
    files: defaultdict[str, list[Path]] = defaultdict(list)
    folder.mkdir(parents=True, exist_ok=True)
    for scenario in scenarios:
        for number, plot in enumerate(scenario["plots"], 1):
            file = folder / f"{scenario['name']}-{number}.svg"
            if here and (lines := lines_of(scenario, plot)):
                _drawn(scenario, plot, lines, file)
            if file.exists():
                files[scenario["name"]].append(file)
    return dict(files)


def lines_of(scenario: Mapping[str, Any], plot: Mapping[str, Any]) -> Lines:
    """Return the lines of a plot: of each arm's series, or of each arm's name and other settings over a setting."""
    lines: defaultdict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for arm in scenario["arms"]:
        if plot["x"] is None:
            for name, points in (arm["series"] or {}).items():
                lines[f"{arm['label']}: {name}"] = [(x, y, y, y) for x, y in points]
        elif plot["x"] in arm["at"] | arm["along"] and plot["figure"] in arm["figures"]:
            others = [f"{name} {value}" for name, value in arm["at"].items() if name != plot["x"]]
            found = arm["figures"][plot["figure"]]
            point = ((arm["at"] | arm["along"])[plot["x"]], found["median"], found["min"], found["max"])
            lines[", ".join([arm["line"] or arm["name"], *others])].append(point)
    return {name: sorted(points) if plot["x"] else points for name, points in lines.items()}


def _drawn(scenario: Mapping[str, Any], plot: Mapping[str, Any], lines: Lines, file: Path) -> None:
    import matplotlib as mpl  # only those who plot have it
    from matplotlib.figure import Figure

    # The same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "diffusion farm"}):
        canvas = Figure(figsize=(8, 4), layout="constrained")
        axes = canvas.subplots()
        for name, points in lines.items():
            x, y, low, high = zip(*points, strict=True)
            if plot["x"] is None:
                axes.plot(x, y, label=name)
            else:
                below = [one - least for one, least in zip(y, low, strict=True)]
                above = [most - one for one, most in zip(y, high, strict=True)]
                axes.errorbar(x, y, yerr=(below, above), marker="o", capsize=3, label=name)
        figure = scenario["figures"][plot["figure"]]
        if plot["logarithmic"]:
            axes.set_xscale("log")
        axes.set(
            title=plot["title"], xlabel=plot["x_title"] or plot["x"], ylabel=f"{figure['title']} ({figure['unit']})"
        )
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
        canvas.savefig(file, metadata={"Date": None})
