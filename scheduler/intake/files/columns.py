"""From cells to fields: which field a column is, and what a cell says, whatever kind of table they come from.

A column that is no field is kept as a label, and travels with its picture to the exports.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from scheduler.intake.files.json_text import DoubledKey, read_json
from storage.errors import BadSpecification
from storage.spec.picture import NAMES, Labels, Request

#: Fields as other tools call them: the web UI in its metadata, API and log, and trainers' files of sample prompts.
_ELSEWHERE = {
    "cfgscale": "guidance_scale",
    "cfg": "guidance_scale",
    "cfgs": "guidance_scale",
    "samplername": "sampler",
    "samplingsteps": "num_inference_steps",
    "samplingmethod": "sampler",
    "samplesteps": "num_inference_steps",
    "samplesampler": "sampler",
}
_PUNCTUATION = re.compile(r"[\s_-]+")
_FIELDS = {_PUNCTUATION.sub("", name): name for name in sorted(NAMES)}
#: The name that an alias such as `steps` stands for.
_CANONICAL = {"negative": "negative_prompt", "steps": "num_inference_steps", "guidance": "guidance_scale"}
_CANONICAL |= {
    str(name): field
    for field, info in Request.model_fields.items()
    for name in getattr(info.validation_alias, "choices", ())
}
_WHOLE = {"width", "height", "num_inference_steps", "seed", "clip_skip", "prior_num_inference_steps"}
_FRACTIONS = {"guidance_scale", "eta", "prior_guidance_scale"}
_NUMBERS = {"controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"}
_PAIRS = {"original_size", "crops_coords_top_left", "target_size"}
_AS_THEY_ARE = {"prompt", "negative_prompt", "negative", "model", "sampler", "custom_id", "size", "aspect"}
_LABELS: TypeAdapter[dict[str, Any] | None] = TypeAdapter(Labels | None)
#: Characters of a field's name, and of all columns of a row that are remembered.
_LONGEST_NAME, REMEMBERED = 200, 5000
#: Of a row; far fewer have room among the labels.
_MOST_COLUMNS = 10_000
#: Beyond it, a floating-point number has lost digits.
_EXACT = 2**53
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
#: How databases and data frames write that there is nothing.
_EMPTY = frozenset({"NULL", "null", "NaN", "nan", "<NA>", r"\N", "None"})
#: What a cell holds that could not be computed, or was saved as it was typed.
_OF_A_SPREADSHEET = re.compile(
    r"#(REF!|N/A|VALUE!|NAME\?|NULL!|NUM!|DIV/0!|SPILL!|CALC!|BEZUG!|NV|WERT!)\s*$"
    r"|=([A-Z]{1,3}\$?\d+\b|[A-Z][A-Z.]+\(|\$[A-Z]).*$"
)
_EXPONENT = re.compile(r"\s*\d+(\.\d+)?[eE]\+?\d+\s*")


class Row(NamedTuple):
    """Hold a row of a file: its place and its cells by their columns."""

    where: str
    cells: Mapping[str, Any]
    #: Whether cells have types (JSON, Parquet), or are all text.
    typed: bool = True
    #: Whether some of the text may be a spreadsheet's or a database's own words, which are no prompts.
    of_a_table: bool = False
    #: Numbers may be written as in `7,5`: in tables with semicolons, tabs or bars.
    decimal_comma: bool = False
    #: How many pictures, if the row says so.
    copies: int | None = None


def field_of(column: str) -> str | None:
    """Return the field that a column is, whatever its case, spaces and underscores; None for a label."""
    # A longer name is none, and is not to stay in memory.
    return _field_of(column) if len(column) <= _LONGEST_NAME else None


@lru_cache(maxsize=10_000)
def _field_of(column: str) -> str | None:
    if column in NAMES:
        return column
    bare = _PUNCTUATION.sub("", column).casefold()
    return _FIELDS.get(bare) or _ELSEWHERE.get(bare)


def canonical(field: str) -> str:
    """Return a field's full name: `num_inference_steps` of `steps`."""
    return _CANONICAL.get(field, field)


def check_columns(names: Collection[str]) -> None:
    """Raise BadSpecification for two columns of one name, or of one field, and for very many."""
    if len(names) > _MOST_COLUMNS:
        raise BadSpecification(f"{len(names):,} columns; at most {_MOST_COLUMNS:,} are read")
    seen: dict[str, str] = {}
    for name in names:
        if name != "clip_skip" and field_of(name) == "clip_skip":
            raise BadSpecification(
                f"the column {name} may count as the web UI does, whose 2 skips one layer; call it clip_skip, and "
                "give the number of layers to skip"
            )
        field = field_of(name)
        key = f"field {canonical(field)}" if field else f"label {name}"
        if key in seen:
            if seen[key] == name:
                raise BadSpecification(f"duplicate column {name}")
            raise BadSpecification(f"the columns {seen[key]} and {name} are both {canonical(field or name)}")
        seen[key] = name


def request_of(row: Row) -> Request:
    """Parse a row's cells. Raises BadSpecification naming the first wrong column, without the row's place."""
    return _typed(row.cells) if row.typed else _text(row)


def is_empty(cells: Mapping[str, Any]) -> bool:
    """Return whether this is a spreadsheet's empty row: several columns, and nothing in any of them."""
    # One look for most: a row begins with its prompt.
    return len(cells) > 1 and next(iter(cells.values())) is None and all(cell is None for cell in cells.values())


def _typed(cells: Mapping[str, Any]) -> Request:
    columns, others = split(tuple(cells))
    labels = {name: cell for name in others if (cell := cells[name]) is not None}
    fields = {field: cells[column] for field, column in columns}
    try:
        # First as they are, as nearly all rows of nearly all files can be: a million of them are a matter of seconds.
        with_labels = {**fields, "labels": _together(labels, fields.get("labels"))}
        return Request.parse(with_labels if with_labels["labels"] is not None else fields)
    except BadSpecification as error:
        mended = {field: _mended(field, cell) for field, cell in fields.items()}
        if repr(mended) == repr(fields):
            raise _in_the_words_of_the_file(error, columns, cells) from None
    try:
        return Request.parse({**mended, "labels": _together(labels, mended.get("labels"))})
    except BadSpecification as error:
        raise _in_the_words_of_the_file(error, columns, cells) from None


def _text(row: Row) -> Request:
    """Parse cells that are all text; an empty one counts as left out."""
    cells = row.cells
    columns, others = split(tuple(cells))
    labels = {name: read_label(cell) for name in others if (cell := cells[name]) and not cell.isspace()}
    texts: dict[str, str] = {}
    # What a cell holds as JSON has types already.
    typed: dict[str, Any] = {}
    try:
        for field, column in columns:
            cell = cells[column]
            if not cell or cell.isspace():
                continue
            if field in _AS_THEY_ARE:
                texts[field] = _checked_text(field, cell) if row.of_a_table else cell
                continue
            read = _read(field, cell, decimal_comma=row.decimal_comma)
            (texts if isinstance(read, str) else typed)[field] = read
        request = Request.parse_strings(texts)
        if not typed and not labels and "labels" not in texts:
            return request
        found = {
            canonical(field): getattr(Request.parse({"prompt": "-", field: typed[field]}), canonical(field))
            for field in typed
        }
        return request.model_copy(update={**found, "labels": _checked(_together(labels, found.get("labels")))})
    except BadSpecification as error:
        raise _in_the_words_of_the_file(error, columns, cells) from None


def split(names: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Split the columns of a row into fields, each with its column, and labels. Raises BadSpecification."""
    # Each row of JSON may have other columns, and very many: those are not to stay in memory.
    return _split_once(names) if sum(map(len, names)) <= REMEMBERED else _split_once.__wrapped__(names)


@lru_cache(maxsize=1000)
def _split_once(names: tuple[str, ...]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    check_columns(names)
    fields = tuple((field, name) for name in names if (field := field_of(name)) is not None)
    return fields, tuple(name for name in names if field_of(name) is None)


def _together(labels: dict[str, Any], said: Any) -> dict[str, Any] | None:
    """Return the labels of a row's columns and those of its field `labels`; None if there are none."""
    if said is None:
        return labels or None
    if not isinstance(said, dict):
        raise BadSpecification("labels: must be an object")
    if twice := said.keys() & labels.keys():
        raise BadSpecification(f"labels: {min(twice)} is also a column")
    return {**labels, **said}


def _checked(labels: dict[str, Any] | None) -> dict[str, Any] | None:
    try:
        return _LABELS.validate_python(labels)
    except ValidationError:
        return Request.parse({"prompt": "-", "labels": labels}).labels  # which says what is wrong


def _in_the_words_of_the_file(
    error: BadSpecification, columns: Iterable[tuple[str, str]], cells: Mapping[str, Any]
) -> BadSpecification:
    """Name a column as the file does: `CFG scale`, not `guidance_scale`."""
    message = str(error)
    for field, column in columns:
        if message.startswith(f"{field}:"):
            rounded = field == "seed" and isinstance(cells[column], str) and _EXPONENT.fullmatch(cells[column])
            message = message.replace(field, column, 1)
            return BadSpecification(
                f"{message}; a spreadsheet has rounded it: format the column as text" if rounded else message
            )
    return error


# -- cells -----------------------------------------------------------------------------------------------------


def _mended(field: str, cell: Any) -> Any:
    """Return a typed cell with whole numbers as such: spreadsheets and pandas write 4.0."""
    name = canonical(field)
    if name in _WHOLE and isinstance(cell, float) and cell.is_integer():
        if abs(cell) >= _EXACT:
            raise BadSpecification(f"{field}: {cell:g} is a floating-point number that has lost digits; write it whole")
        return int(cell)
    if name in _PAIRS and isinstance(cell, list):
        return [int(item) if isinstance(item, float) and item.is_integer() else item for item in cell]
    return cell


def is_told_text(cell: str) -> bool:
    """Return whether a table's cell stands for itself, and for no other text and no empty cell."""
    return cell not in _EMPTY and _OF_A_SPREADSHEET.match(cell) is None


def _checked_text(field: str, cell: str) -> str:
    """Return a table's cell as it stands. Raises BadSpecification for what stands for other text, or for none."""
    if cell in _EMPTY:
        raise BadSpecification(f"{field}: {cell} is how some programs write nothing; leave the cell empty")
    if (wrong := _OF_A_SPREADSHEET.match(cell)) is not None:
        what = "an error" if cell.startswith("#") else "a formula"
        raise BadSpecification(f"{field}: {wrong[0][:40]} is {what} of a spreadsheet; save its values")
    return cell


def _read(field: str, cell: str, *, decimal_comma: bool) -> Any:
    """Return a cell of text as its field's parser takes it."""
    name = canonical(field)
    if decimal_comma and _DECIMAL_COMMA.fullmatch(cell):
        if name in _NUMBERS:
            raise BadSpecification(
                f"{field}: {cell.strip()} may be one number or two; write {cell.strip().replace(',', '.')}, "
                f"or {cell.strip().replace(',', ', ')}"
            )
        if name in _WHOLE | _FRACTIONS:
            return cell.replace(",", ".")
    if name in _NUMBERS | _PAIRS | {"control_images", "loras", "labels"} and cell.lstrip().startswith(("[", "{")):
        try:
            return read_json(cell)
        except DoubledKey as error:
            raise BadSpecification(f"{field}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise BadSpecification(f"{field}: not JSON: {error}") from None
    return cell


def read_label(cell: str) -> Any:
    """Return a label as JSON would have it: a number where it is written as one, so that nothing of it gets lost."""
    try:
        number = float(cell) if "." in cell else int(cell)
    except ValueError:
        return cell
    return number if repr(number) == cell and abs(number) < _EXACT else cell
