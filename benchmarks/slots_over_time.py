"""Draws who had which slot when, while a mixed manifest was rendered: this build, and another one above it.

python -m benchmarks.slots_over_time --against ../before --out examples/slots.png

Each build renders the same pictures with one worker on this machine's CPU, one build after the other.
"""

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.build_farm import BuildFarm, Span, build_farm
from benchmarks.machine import REPOSITORY
from benchmarks.prompts import SHIPPED
from benchmarks.scenarios.steps import mixed, registry

_WARM_UP = 8
#: As many as a model has unless its registry says otherwise.
_SLOTS = 8


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A picture in its slot; seconds since the first one began."""

    slot: int
    begins: float
    ends: float
    steps: int


def bars(spans: Sequence[Span]) -> list[Bar]:
    """Give each picture the first slot that is free when it begins, or is the next to be.

    When a picture left its slot is known only but for the moment in which it was handed over.
    """
    free_at: list[float] = []
    found: list[Bar] = []
    first = min(span.begins for span in spans)
    for span in sorted(spans, key=lambda one: (one.begins, one.ends)):
        slot = next((slot for slot, ends in enumerate(free_at) if ends <= span.begins), len(free_at))
        slot = slot if slot < _SLOTS else free_at.index(min(free_at))
        free_at[slot : slot + 1] = [span.ends]
        found.append(Bar(slot=slot, begins=span.begins - first, ends=span.ends - first, steps=span.steps))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, draw, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slots_over_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another build of the farm, drawn above")
    parser.add_argument("--pictures", type=int, default=40, help="in the manifest (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a PNG or an SVG")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        click.echo("the package matplotlib is missing: pip install 'diffusion-farm[bench]'", err=True)
        return 2
    if options.against is not None and not (options.against / "scheduler").is_dir():
        click.echo(f"no checkout of the farm: {options.against}", err=True)
        return 2
    builds = [("before", options.against.resolve()), ("by slots", REPOSITORY)][0 if options.against else 1 :]
    panels = [(name, _rendered(checkout, options.pictures)) for name, checkout in builds]
    _draw(panels, options.out)
    click.echo(f"written: {options.out}")
    return 0


def _rendered(checkout: Path, pictures: int) -> list[Bar]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with build_farm(checkout, folder, models=registry(SHIPPED, folder), FARM_DEVICES="cpu:0") as farm:
            _render(farm, folder, _WARM_UP)
            return bars(farm.spans(_render(farm, folder, pictures)))


def _render(farm: BuildFarm, folder: Path, pictures: int) -> str:
    file = folder / f"{pictures}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in mixed(pictures, 1)))
    render = farm.submit(file)
    farm.wait(render)
    return render


def _draw(panels: Sequence[tuple[str, Sequence[Bar]]], out: Path) -> None:
    """Draw a panel for each build, with one scale of seconds."""
    import matplotlib as mpl  # only those who draw have it
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "diffusion farm", "font.size": 9}):
        canvas = Figure(figsize=(9, 1.1 + 1.7 * len(panels)), layout="constrained")
        all_axes = canvas.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        scale = mpl.colors.Normalize(10, 40)
        colours = mpl.colormaps["viridis"]
        for axes, (name, drawn) in zip(all_axes, panels, strict=True):
            for bar in drawn:
                axes.barh(
                    bar.slot + 1,
                    bar.ends - bar.begins,
                    left=bar.begins,
                    height=0.9,
                    color=colours(scale(bar.steps)),
                    edgecolor="white",
                    linewidth=0.5,
                )
            seconds = max(bar.ends for bar in drawn)
            axes.set_title(f"{name}: {len(drawn)} pictures in {seconds:.1f} s", loc="left")
            _prepare(axes)
        all_axes[-1].set_xlabel("seconds")
        canvas.colorbar(mpl.cm.ScalarMappable(scale, colours), ax=list(all_axes), label="steps of the picture")
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(out, dpi=110, metadata={"Date": None} if out.suffix == ".svg" else None)


def _prepare(axes: Any) -> None:
    axes.set_ylim(_SLOTS + 0.6, 0.4)
    axes.set_yticks(range(1, _SLOTS + 1))
    axes.set_ylabel("slot")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    raise SystemExit(main())
