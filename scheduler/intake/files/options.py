"""Prompts with options on their line: `a cat --n blurry --w 512 --d 1`, `--prompt "a cat" --steps 4`.

The first is how sd-scripts writes sample prompts, the second how the web UI's script "Prompts from file" does.
"""

import difflib
import re
import shlex
from collections.abc import Iterator

from scheduler.intake.files import webui_words
from scheduler.intake.files.columns import Row, canonical, field_of
from storage.errors import BadSpecification
from storage.spec.picture import NAMES

#: sd-scripts' short names, and the web UI's for the model.
_FIELDS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "guidance",
    "ss": "sampler",
    "sd_model": "model",
}
#: The web UI's numbers of pictures, which multiply.
_COUNTS = ("n_iter", "batch_size")
_MOST_COPIES = 10_000
_OPTION = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
#: What word processors make of two dashes.
_LONG_DASH = re.compile(r"(?:^|\s)[\u2013\u2014]([A-Za-z][\w-]*)(?=[\s=])")
_BEFORE_OPTION = re.compile(r"(?:^|\s+)(?=--[A-Za-z])")
#: What asks for a random seed.
_RANDOM_SEED = "-1"


def has_options(line: str) -> bool:
    """Return whether a line carries options. Raises BadSpecification for one behind a dash that is no option's."""
    if (found := _LONG_DASH.search(line)) and (found[1] in _FIELDS or field_of(found[1])):
        raise BadSpecification(f"{found[0].strip()}: a long dash; write --{found[1]} for the option")
    return "--" in line and _BEFORE_OPTION.search(line) is not None


def row_of(where: str, line: str) -> Row:
    """Read a line's prompt and options. Raises BadSpecification for an option that the farm does not have."""
    cells: dict[str, str] = {}
    copies: int | None = None
    for name, value in _pairs(line):
        if name in _COUNTS:
            copies = (copies or 1) * _count(name, value)
            continue
        field = _FIELDS.get(name) or field_of(name)
        if field is None:
            if near := difflib.get_close_matches(name, sorted({*_FIELDS, *_COUNTS, *NAMES}), n=2, cutoff=0.75):
                meant = " or ".join(f"--{one}" for one in near)
                raise BadSpecification(f"--{name}: not an option of prompt files; did you mean {meant}?")
            raise BadSpecification(
                f"--{name}: not an option of prompt files (known: {', '.join(f'--{one}' for one in _FIELDS)} and the "
                "fields of a picture); a prompt with these words can stand in a .csv or .jsonl file"
            )
        if canonical(field) in {canonical(one) for one in cells}:
            raise BadSpecification(f"--{name}: {canonical(field)} is given twice")
        if canonical(field) == "seed" and value == _RANDOM_SEED:
            continue
        cells[field] = value
    if line.startswith("--"):
        cells = webui_words.read(cells)
    return Row(where, cells, typed=False, copies=copies)


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yield names and values; the text before the first option is the prompt."""
    if line.startswith("--"):
        yield from _of_shell_words(line)
        return
    prompt, *options = _BEFORE_OPTION.split(line)
    if prompt:
        yield "prompt", prompt
    for option in options:
        name, _, value = option.removeprefix("--").partition(" ")
        if "=" in name:
            name, _, value = option.removeprefix("--").partition("=")
        yield name, _given(name, _unquoted(value.strip()))


def _of_shell_words(line: str) -> Iterator[tuple[str, str]]:
    """Read a line as the web UI does: as a shell would, except that words without an option belong to the last one."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise BadSpecification(f'{str(error).lower()}; quote texts as in --prompt "a cat\'s toy"') from None
    name, said = "", list[str]()
    for word in [*words, None]:
        option = None if word is None else _OPTION.fullmatch(word)
        if word is not None and option is None:
            said.append(word)
            continue
        if name:
            yield name, _given(name, " ".join(said))
        if option is not None:
            name, said = option[1], [option[2]] if option[2] is not None else []


def _given(name: str, value: str) -> str:
    # Of an option that is not known, that is what is wrong with it.
    known = name in _FIELDS or name in _COUNTS or field_of(name) is not None
    if known and not value and "negative_prompt" not in (field_of(name), _FIELDS.get(name)):
        raise BadSpecification(f"--{name}: a value is missing")
    return value


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _count(name: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= _MOST_COPIES:
        raise BadSpecification(f"--{name}: must be a number of pictures, 1 to {_MOST_COPIES} (given: {value!r})")
    return int(value)
