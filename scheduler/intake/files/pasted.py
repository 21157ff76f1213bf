"""Blocks of text as the web UI and galleries show them: a prompt, `Negative prompt: …`, `Steps: 20, Sampler: …`.

What the settings say: `scheduler.intake.files.webui_settings`.
"""

import re
from collections.abc import Iterator

from scheduler.intake.files import webui_words
from scheduler.intake.files.columns import Row
from scheduler.intake.files.text import MAX_LINE
from scheduler.intake.files.webui_settings import cells_of, is_ours, scan
from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification

_NEGATIVE = re.compile(r"negative prompt:", re.IGNORECASE)
#: Some programs name the prompt, too.
_PROMPT = re.compile(r"(positive )?prompt:", re.IGNORECASE)
_STEPS_FIRST = re.compile(r"Steps: *\d+\b", re.IGNORECASE)
_STEPS_LATER = re.compile(r", *Steps: *\d+(\.0+)? *(,|$)", re.IGNORECASE)
#: What stands beside the steps: first, where a tool has another order, or, without them, broken off from their line.
_BESIDE_STEPS = re.compile(
    r"(Sampler|Schedule type|CFG scale|Seed|Size|Model hash|Model|Clip skip|Version|Width|Height): *[^,]+(,|$)",
    re.IGNORECASE,
)
#: A setting that has a line for itself, as nothing that is drawn has.
_ALONE = re.compile(r"(Seed|CFG scale|Size|Clip skip|Width|Height): *[\d.x]+ *(,|$)", re.IGNORECASE)
#: Lines of a block, empty ones among them.
_LONGEST_BLOCK = 1000
#: So many lines before the first settings are prompts of their own, not one.
_MOST_LINES = 20


def begins_block(line: str) -> bool:
    """Return whether a line can only belong to such a block."""
    return any(start.match(line) for start in (_NEGATIVE, _PROMPT, _ALONE)) or _is_settings(line)


def _is_settings(line: str) -> bool:
    """Return whether this is a line of settings, in whatever order."""
    if _STEPS_FIRST.match(line):
        return True
    return _BESIDE_STEPS.match(line) is not None and _STEPS_LATER.search(line) is not None


def rows(lines: Iterator[tuple[str, str]], bad: BadRows) -> Iterator[Row]:
    """Yield a row for each block. A block ends with its settings, or, without any, with an empty line."""
    block = _Block()
    for where, line in lines:
        text = line.strip()
        if block.ends_before(text):
            yield from block.rows(bad)
            block = _Block()
        block.add(where, text)
    yield from block.rows(bad)


class _Block:
    """The lines of one picture."""

    def __init__(self) -> None:
        self._where = ""
        self._lines = 0
        self._characters = 0
        self._prompt: list[str] = []
        self._negative: list[str] | None = None
        self._settings: str | None = None
        self._named = False
        self._empty_line = False
        self._wrong: BadSpecification | None = None

    def ends_before(self, line: str) -> bool:
        """Return whether this line belongs to the next block."""
        if self._settings is not None or (self._where and _PROMPT.match(line)):
            return True
        return self._negative is not None and self._empty_line and bool(line) and not _is_settings(line)

    def add(self, where: str, line: str) -> None:
        if not self._where:
            if not line:
                return
            self._where = where
        self._empty_line = not line
        if _is_settings(line):
            self._settings = line
        elif negative := _NEGATIVE.match(line):
            if self._negative is not None:
                self._wrong = BadSpecification(
                    f"{where}: a second 'Negative prompt:' for one picture; put an empty line between pictures"
                )
            self._negative = [line[negative.end() :].strip()]
        elif _BESIDE_STEPS.match(line):
            self._wrong = BadSpecification(f"{where}: settings must stand on one line, with 'Steps:' among them")
        elif named := _PROMPT.match(line):
            self._named = True
            self._prompt = [line[named.end() :].strip()]
        elif self._negative is not None:
            self._keep(self._negative, line)
        else:
            self._keep(self._prompt, line)

    def _keep(self, text: list[str], line: str) -> None:
        self._lines += 1
        self._characters += len(line)
        if self._lines <= _LONGEST_BLOCK and self._characters <= MAX_LINE:
            text.append(line)
        elif self._wrong is None:
            # Of a file without settings, all lines are one block.
            self._wrong = BadSpecification(
                f"{self._where}: more than {_LONGEST_BLOCK:,} lines before one 'Negative prompt:' or 'Steps:'; keep "
                "prompts without settings in a file of their own"
            )

    def rows(self, bad: BadRows) -> Iterator[Row]:
        if not self._where:
            return
        try:
            if self._wrong is not None:
                raise self._wrong
            if self._negative is None and self._settings is None and not self._named:
                raise BadSpecification(f"{self._where}: neither 'Negative prompt:' nor 'Steps:' follows this prompt")
            try:
                cells = self._cells()
            except BadSpecification as error:
                raise BadSpecification(f"{self._where}: {error}") from None
        except BadSpecification as error:
            bad.met(error)
        else:
            yield Row(self._where, cells, typed=False)

    def _cells(self) -> dict[str, str]:
        prompt = "\n".join(self._prompt).strip()
        lines = prompt.split("\n")
        if len(lines) > _MOST_LINES or "" in lines:
            raise BadSpecification(
                "several prompts before one 'Negative prompt:' or 'Steps:'; keep prompts without settings in a file of "
                "their own"
            )
        cells = {"prompt": prompt}
        if self._negative is not None:
            cells["negative_prompt"] = "\n".join(self._negative).strip()
        settings = scan(self._settings) if self._settings is not None else {}
        # The farm writes prompts as they are, whatever language they are in.
        return {**webui_words.read(cells, weights=not is_ours(settings)), **cells_of(settings)}
