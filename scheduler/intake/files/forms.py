"""Which form a file has: its kind says, and, where it leaves that open, its first lines."""

import re
from typing import Literal

from scheduler.intake.files import pasted
from scheduler.intake.files.columns import field_of
from scheduler.intake.files.delimited import dialect_of
from scheduler.intake.files.json_values import is_json
from storage.errors import BadSpecification

Form = Literal["plain", "pasted", "table", "json lines", "json values", "parquet"]

#: Kind of file, as its suffix names it → its form; None: its first lines say.
KINDS: dict[str, Form | None] = {
    "txt": None,
    "jsonl": None,
    "csv": "table",
    "tsv": "table",
    "json": None,
    "ndjson": None,
    "parquet": "parquet",
}
#: Kinds of files that may be tables of cells with something between them.
_TABLES = ("csv", "tsv", "txt")
_LIST = re.compile(r"\[\s*(\{|\]\s*$)")
_OBJECT = re.compile(r'\{\s*"')
#: How files of other kinds begin, whatever they are called → what to do with one.
_NOT_PROMPTS = (
    (re.compile(r"PK\x03\x04"), "a workbook or an archive (.xlsx, .ods, .zip); export the table as CSV"),
    (re.compile(r"%PDF-"), "a PDF; save its text as UTF-8"),
    (re.compile(r"\{\\rtf"), "rich text (RTF); save it as plain text"),
    (re.compile(r"<(!doctype|html|\?xml)", re.IGNORECASE), "a page (HTML or XML); save its text"),
    # Of bytes that are no text, `head` keeps the others.
    (re.compile(r"\x1f\x08|BZh\d1AY&SY|7zXZ\0"), "a compressed file; unpack it first"),
    (re.compile(r"PNG\r\n\x1a|\0?.?JFIF|GIF8|RIFF.{0,4}WEBP", re.DOTALL), "a picture; give a file of prompts"),
)
#: What a column of prompts is called elsewhere.
_CAPTIONS = (["prompts"], ["text"], ["caption"], ["captions"])
#: Names of characters that are awkward to type.
_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
#: In text files only: lists of fields in other languages.
_NOT_TEXT = (
    (re.compile(r"\{\s*'"), "an object as Python writes it; write JSON, with double quotes"),
    (re.compile(r"-\s+\w+:\s|prompts:\s*$", re.IGNORECASE | re.MULTILINE), "YAML; write a .csv, .jsonl or .json file"),
    (re.compile(r"\".*\",\s*\n"), "a list of a program's; leave quotes and commas out, or write a .json file"),
    (re.compile(r"1([.)])\s.*\n\s*2\1\s"), "a numbered list; leave the numbers out, which would be drawn"),
    (re.compile(r"([-*\u2022])\s.*\n\s*\1\s"), "a list of Markdown's; leave its marks out, which would be drawn"),
)


def read_delimiter(said: str) -> str:
    """Return the character that separates cells, which may be named (`tab`). Raises ValueError for what cannot."""
    found = _DELIMITERS.get(said, said)
    if len(found) != 1 or found.isalnum() or found in '"\r\n\0':
        raise ValueError(f"{said[:20]!r}: expected one character such as ';', or tab")
    return found


def form_of(kind: str, head: str, *, separator: str | None = None) -> Form:
    """Return the form of a file of this kind that begins so; one whose cells have a known separator is a table.

    Raises BadSpecification for a first line that may be a table's header, or a prompt, and for files of other kinds.
    """
    if kind != "parquet":
        _check(head.lstrip("\ufeff \t\r\n"), _NOT_PROMPTS)
    if separator is not None and kind not in _TABLES:
        raise BadSpecification(f"is no table, whose cells a delimiter separates; tables are {', '.join(_TABLES)}")
    if separator is not None:
        return "table"
    if (form := KINDS[kind]) is not None:
        return form
    # A byte order mark is none of the text.
    start = head.lstrip("\ufeff \t\r\n")
    if _LIST.match(start):
        return "json values"
    first = start.splitlines()[0] if start else ""
    if kind != "jsonl" and kind != "ndjson" and _OBJECT.match(start) and not is_json(first):
        return "json values"  # an object that goes on on the next line
    if kind != "txt" or _OBJECT.match(start):
        return "json lines"
    if _is_header(first):
        return "table"
    _check(start, _NOT_TEXT)
    if any(pasted.begins_block(line.strip()) for line in start.splitlines()):
        return "pasted"
    return "plain"


def _check(start: str, forms: tuple[tuple[re.Pattern[str], str], ...]) -> None:
    for pattern, what in forms:
        if pattern.match(start):
            raise BadSpecification(f"line 1: looks like {what}")


def _is_header(line: str) -> bool:
    """Return whether the first line of a text file is a table's header: Excel calls tables in Unicode `.txt`, too."""
    separator = dialect_of(line).separator
    names = [name.strip().strip('"') for name in line.split(separator)]
    fields = [field_of(name) for name in names]
    if "prompt" not in fields and [name.lower() for name in names] not in _CAPTIONS:
        return False
    several = sum(field is not None for field in fields) > 1 or (separator == "\t" and len(names) > 1)
    if "prompt" in fields and several:
        return True
    raise BadSpecification(
        f"line 1: {line.strip()[:60]!r} looks like a table's header; name such a file .csv (or use "
        "--prompts-format csv), or leave the line out of a file of prompts"
    )
