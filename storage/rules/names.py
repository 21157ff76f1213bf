"""What people may call their renders, and what they may note on them."""

import re

from storage.rules.ids import parse_job_id

MOST_NAME_CHARACTERS = 100
MOST_NOTE_CHARACTERS = 2000
#: Neither a path, nor an option of a command, nor what stands for the last render.
NAME_PATTERN = r"^[^\s/\\@-]([^/\\]*[^\s/\\])?$"
_NAME = re.compile(NAME_PATTERN)


def checked_name(name: str) -> str:
    """Return a render's name. Raises ValueError saying what is wrong with it."""
    if parse_job_id(name) is not None and len(name.rpartition("-")[2]) >= 6:
        raise ValueError(f"must not look like a job's id, as {name} does")
    if not name.isprintable() or len(name) > MOST_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise ValueError(
            f"must be 1 to {MOST_NAME_CHARACTERS} printable characters without slashes, spaces at its ends, or @ or - "
            "at its beginning"
        )
    return name


def checked_note(note: str) -> str:
    """Return a note. Raises ValueError saying what is wrong with it."""
    if len(note) > MOST_NOTE_CHARACTERS:
        raise ValueError(f"must have at most {MOST_NOTE_CHARACTERS} characters")
    if not note.strip() or not all(letter.isprintable() or letter in "\n\t" for letter in note):
        raise ValueError("must be text, without control characters")
    return note
