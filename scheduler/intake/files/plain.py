"""Files of plain lines: a prompt, or a wildcard's value, on each; `# …` is a comment."""

import re
from collections.abc import Iterator

from scheduler.intake.files import options, pasted
from scheduler.intake.files.columns import Row, field_of
from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification

#: Such as `steps = 4`.
_SETTING = re.compile(r"(\w+) *= *[\"'\d.-]")
_COMMENT = re.compile(r"#+(\s|$)")


def values(lines: Iterator[tuple[str, str]], bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yield what stands on the lines, without blanks around it, empty lines and comments."""
    for where, line in lines:
        text = line.strip()
        if not text or _COMMENT.match(text):
            continue
        if text.startswith("#"):
            bad.met(
                BadSpecification(
                    f"{where}: begins with #; write `# …` for a comment. A text that begins with # can stand in a "
                    ".csv, .jsonl or .json file"
                )
            )
            continue
        yield where, text


def rows(lines: Iterator[tuple[str, str]], bad: BadRows) -> Iterator[Row]:
    """Yield a row for each prompt; one with options (`--steps 4`) says more than its words."""
    for where, text in values(lines, bad):
        try:
            if pasted.begins_block(text):
                raise BadSpecification("belongs to a pasted block; keep such blocks in a file of their own")
            if (setting := _SETTING.match(text)) and field_of(setting[1]):
                raise BadSpecification(f"{setting[1]}: a setting of TOML or INI; write a .csv or .jsonl file")
            row = options.row_of(where, text) if options.has_options(text) else Row(where, {"prompt": text})
        except BadSpecification as error:
            bad.met(BadSpecification(f"{where}: {error}"))
        else:
            yield row
