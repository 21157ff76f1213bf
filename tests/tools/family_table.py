"""Families of pipelines as queued jobs of a farm that runs, in a table with the jobs' ids.

`python -m tests.tools.family_table [--out FILE] [--without-check] [FAMILY …]` builds a small model of each family (the
real classes, random weights), starts a farm on this machine, submits, fetches and cancels as people do, and compares
what comes with what Diffusers itself draws. Exits with 1 if something is not as it should be.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from storage.spec.picture import Spec
from tests.acceptance.command import Home
from tests.forks import WITH_TORCH, Starter, forking
from tests.pipelines.architectures import ARCHITECTURES, WELL_KNOWN, packages_missing
from tests.pipelines.test_families import FAMILIES, NEGATIVE, Family
from tests.servers import eventually

COLUMNS = ("equal to Diffusers", "batch", "negative", "off", "size", "cancel", "check")
_PROMPT, _LONG = "a red star", "dot " * 30
_ENTRY = """
[models.{alias}]
kind = "diffusers"
source = "{folder}"
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 5.0
"""
#: The first lines of the table.
HEAD = (f"| family | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|")
#: More than the smallest model makes before anybody can say that it is to stop.
_PICTURES, _STEPS = 40, 50


@dataclass
class Row:
    """What was found of one family: by column, whether it is as it should be, and words."""

    name: str
    cells: dict[str, tuple[bool, str]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return all(good for good, _ in self.cells.values())

    def compare(self, column: str, job: str, picture: Any, expected: Any) -> None:
        """Note how far a job's picture is from what Diffusers draws."""
        if picture.shape != expected.shape:
            self.cells[column] = (False, f"{job}: {picture.shape} in place of {expected.shape}")
            return
        off_by = int(np.abs(picture - expected).max())
        self.cells[column] = (off_by <= 1, f"{job} (≤ {off_by}/255)")

    def written(self) -> str:
        found = [self.cells.get(column, (True, "–")) for column in COLUMNS]
        return f"| {self.name} | " + " | ".join(f"{'' if good else '**no** '}{words}" for good, words in found) + " |"


class Trial:
    """One family on a farm that runs."""

    def __init__(self, home: Home, name: str, family: Family) -> None:
        self.home, self.name, self.family = home, name, family
        self.row = Row(name)
        self._renders = 0

    def run(self) -> Row:
        try:
            self._draw()
            self._cancel()
        except (AssertionError, ValueError, OSError) as error:
            self.row.cells["equal to Diffusers"] = (False, " ".join(str(error).split())[:200])
        return self.row

    def _draw(self) -> None:
        profile, family = self.family.profile, self.family
        fields: dict[str, dict[str, Any]] = {
            "equal to Diffusers": {},
            "off": {"guidance_scale": profile.off},
            "size": {"width": 64 + profile.multiple},
        }
        if family.takes_negatives:
            fields["negative"] = {"negative_prompt": NEGATIVE}
        # Each by itself: nothing is in a batch with the first.
        for column, more in fields.items():
            [(job, picture)] = self._rendered([more])
            expected = family.own_call(self._spec(**more))
            self.row.compare(column, job, picture, expected)
        if "negative" not in fields:
            self._refused("negative", NEGATIVE, "--negative-prompt")
        if profile.multiple > 8:
            self._refused("size", f"{64 + profile.multiple // 2}x64", "--size", beside=True)
        both = self._rendered([{}, {"prompt": _LONG, "seed": 2}])
        self.row.compare("batch", both[0][0], both[0][1], family.own_call(self._spec()))

    def _spec(self, **more: Any) -> Spec:
        return self.family.spec(prompt=_PROMPT, seed=1, **more)

    def _rendered(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
        """Have pictures made; their jobs' ids and pixels."""
        self._renders += 1
        out = f"{self.name}-{self._renders}"
        asked = [{"prompt": _PROMPT, "seed": 1, "model": self.name, **row} for row in rows]
        self.home.file(f"{out}.jsonl", "\n".join(map(json.dumps, asked)))
        told = self.home.farm("render", "--prompts", f"{out}.jsonl", "--json", "--out", out, code=None)
        jobs = told.json["jobs"]
        if wrong := [job["error"] for job in jobs if job["state"] != "done"]:
            raise ValueError(f"{jobs[0]['id']}: {wrong[0]}")
        files = sorted((self.home.folder / out).glob("*.png"))
        return [
            (job["id"], np.asarray(Image.open(file)).astype(np.int16)) for job, file in zip(jobs, files, strict=True)
        ]

    def _refused(self, column: str, value: str, option: str, *, beside: bool = False) -> None:
        told = self.home.farm("render", "a", "--model", self.name, option, value, "--no-wait", code=None)
        words = "odd sides refused" if column == "size" else "refused"
        before = self.row.cells.get(column, (True, ""))
        said = f"{before[1]}; {words}" if beside else words
        self.row.cells[column] = (before[0] and told.code == 2, said)

    def _cancel(self) -> None:
        """Cancel a render of which a picture is being made; what had begun ends, and others follow."""
        told = self.home.farm(
            *("render", _PROMPT, "--model", self.name, "-n", str(_PICTURES), "--steps", str(_STEPS)),
            *("--no-wait", "--json"),
        )
        render = told.json["id"]
        running = f"SELECT 1 FROM jobs WHERE render_id = '{render}' AND state = 'running'"
        eventually(lambda: self.home.rows(running), f"a picture of {self.name} is being made", timeout=600)
        self.home.farm("cancel", render)
        open_ = f"SELECT 1 FROM jobs WHERE render_id = '{render}' AND state NOT IN ('done', 'cancelled')"
        eventually(lambda: not self.home.rows(open_), f"{self.name} is cancelled")
        jobs = self.home.farm("jobs", render, "--json").json
        begun = [job["id"] for job in jobs if job["state"] == "cancelled" and job["started_at"] is not None]
        self._rendered([{}])
        self.row.cells["cancel"] = (bool(begun), f"{begun[0]} and {len(begun) - 1} more" if begun else render)


def check(home: Home, row: Row) -> None:
    """Have `farm models check` prove what is promised of a model."""
    told = home.farm("models", "check", row.name, "--json", code=None)
    if told.code not in (0, 1):
        row.cells["check"] = (False, " ".join(told.err.split())[:200])
        return
    found = told.json["findings"]
    wrong = [one["check"] for one in found if one["held"] is False]
    held = sum(one["held"] is True for one in found)
    row.cells["check"] = (not wrong, f"{held} held" + (f", failed: {', '.join(wrong)}" if wrong else ""))


def table(names: Sequence[str], folder: Path, *, checks: bool = True) -> Iterator[Row]:
    """Try families, one after the other."""
    with forking(folder, "torch") as address:
        starter = Starter(lambda _: address)
        home = Home(folder / "farm", starter, FARM_DEVICES="cpu:0", FARM_LOADED_MODELS="1", **WITH_TORCH)
        families = {name: Family(name, folder / name) for name in names}
        home.path.mkdir()
        entries = [_ENTRY.format(alias=name, folder=family.folder) for name, family in families.items()]
        (home.path / "models.toml").write_text("".join(entries))
        with home.started("up") as up:
            up.says("Ctrl-C stops it")
            for name in names:
                # Dropped with its pipeline once it was tried.
                row = Trial(home, name, families.pop(name)).run()
                if checks:
                    check(home, row)
                yield row
            up.interrupted()
        home.is_left_in_peace()


def main() -> int:
    known = [*WELL_KNOWN, *ARCHITECTURES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FAMILY", help=f"of {', '.join(known)}")
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    parser.add_argument("--without-check", action="store_true", help="leave out `farm models check`")
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*known}):
        parser.error(f"no family named {unknown[0]!r}; there are {', '.join(known)}")
    lines = [*HEAD]
    print("\n".join(lines), flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        names = given.names or [name for name in FAMILIES if not packages_missing(name)]
        for row in table(names, Path(folder), checks=not given.without_check):
            good &= row.holds
            lines.append(row.written())
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
