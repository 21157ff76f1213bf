"""The text that the web UI and its kin write into a picture's file: one picture, whatever lines its prompt has.

As the web UI reads it: the last line of settings ends it, and the first line that begins with `Negative prompt:` ends
the prompt. Files of several such texts are `scheduler.intake.files.pasted`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from scheduler.intake.files import webui_words
from scheduler.intake.files.columns import Row
from scheduler.intake.files.leftovers import Leftovers, kept
from scheduler.intake.files.webui_settings import cells_of, is_ours, scan
from storage.errors import BadSpecification

_NEGATIVE = "Negative prompt:"
#: Settings by which a line is known, whatever program wrote it; that many of them are enough, as in the web UI.
_TELLING = frozenset(
    {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Version"}
)
_ENOUGH = 3


class Infotext(NamedTuple):
    """Hold the parts of such a text."""

    prompt: str
    negative_prompt: str
    settings: Mapping[str, str]
    #: What stands behind the settings: other extensions' lines.
    behind: str


def split_infotext(text: str) -> Infotext:
    """Split a text. Raises BadSpecification for one without settings."""
    lines = text.replace("\r\n", "\n").split("\n")
    number, settings = _settings(lines)
    before = lines[:number]
    start = next((place for place, line in enumerate(before) if line.strip().startswith(_NEGATIVE)), len(before))
    negative = "\n".join(before[start:]).strip().removeprefix(_NEGATIVE)
    return Infotext(
        prompt="\n".join(before[:start]).strip(),
        negative_prompt=negative.strip(),
        settings=settings,
        behind="\n".join(lines[number + 1 :]).strip(),
    )


def _settings(lines: list[str]) -> tuple[int, Mapping[str, str]]:
    for number in reversed(range(len(lines))):
        line = lines[number].strip()
        # Most lines are prompts: a look for the shortest of the names is cheaper than reading them.
        if ":" in line and len(_TELLING & (found := scan(line)).keys()) >= min(_ENOUGH, line.count(":")):
            return number, found
    raise BadSpecification(
        "its text `parameters` has no line of settings such as `Steps: 20, Sampler: Euler a, Seed: 5`"
    )


def row_of(text: str, leftovers: Leftovers) -> tuple[Row, bool]:
    """Read a text; return its row, and whether the farm wrote it. Raises BadSpecification for what is none."""
    found = split_infotext(text)
    ours = is_ours(found.settings)
    cells = {"prompt": found.prompt, "negative_prompt": found.negative_prompt}
    # The farm writes prompts as they are, and says what language they are in.
    with kept(leftovers, "prompt"):
        cells = webui_words.read(cells, weights=not ours)
    if "prompt" in leftovers.unfit:
        cells = {}
    if found.behind:
        leftovers.unread["behind the settings"] = found.behind
    return Row("", {**cells, **cells_of(found.settings, leftovers)}, typed=False), ours
