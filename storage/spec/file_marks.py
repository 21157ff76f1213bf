"""Marks of the contents of a model's files: what was measured of them is forgotten once others have taken their place.

States of files (`model_states`) are of one machine; marks are the same on all that have copies, and cheap: no file is
read whole but small ones.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from storage.spec.entry_hash import entry_hash
from storage.spec.file_state import FileState
from storage.spec.model_states import named_states
from storage.spec.models import Model

#: Files of so many bytes are read whole.
_SMALL = 16 << 20
#: Of others so many pieces, each of so many bytes, at even distances: training changes all of a part's numbers.
_PIECES, _PIECE = 256, 4096
#: How soon running processes see that a file is another.
_FRESH_SECONDS = 5.0

#: Of a model's files, by their names within its parts.
Marks = Mapping[str, str]


def file_marks(model: Model) -> Marks:
    """Return marks of all files of this machine that a model is made of.

    None of repositories of the hub, whose files never change; none of what is not there at the moment.
    """
    found = {}
    for name, (path, state) in named_states(model).items():
        try:
            found[name] = _mark(path, state)
        except OSError:
            # Gone since, or not for this user to read.
            continue
    return found


def marked(entry: str, marks: Marks) -> str:
    """Return a hash of a model's entry (`entry_hash`) and of its files; the entry's own where it has none here."""
    if not marks:
        return entry
    text = "\n".join([entry, *(f"{name} {mark}" for name, mark in sorted(marks.items()))])
    return hashlib.sha256(text.encode()).hexdigest()[: len(entry)]


class FileMarks:
    """The marks of models' files, looked for again every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Model, tuple[float, Marks]] = {}

    def of(self, model: Model) -> Marks:
        """Return a model's marks as they were within the last seconds."""
        now = self._clock()
        looked_at, marks = self._known.get(model, (float("-inf"), {}))
        if now - looked_at > _FRESH_SECONDS:
            marks = file_marks(model)
            self._known[model] = now, marks
        return marks


class MarkedEntries:
    """Hashes of models' entries and files, looked for again every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By alias; of a model that was edited, the last entry.
        self._known: dict[str, tuple[Model, str, float, str]] = {}

    def of(self, model: Model) -> str:
        """Return a model's hash (`marked`) as it was within the last seconds."""
        now = self._clock()
        known, entry, looked_at, found = self._known.get(model.alias, (None, "", float("-inf"), ""))
        # The very same one most times: comparing field by field takes longer.
        if known is not model:
            entry, looked_at = entry_hash(model), float("-inf")
        if now - looked_at > _FRESH_SECONDS:
            found = marked(entry, file_marks(model))
            self._known[model.alias] = model, entry, now, found
        return found


@lru_cache(maxsize=4096)
def _mark(path: Path, state: FileState) -> str:
    _, size, *_ = state
    mark = hashlib.sha256(str(size).encode())
    with path.open("rb") as opened:
        if size <= _SMALL:
            mark.update(opened.read())
        else:
            for piece in range(_PIECES):
                opened.seek((size - _PIECE) * piece // (_PIECES - 1))
                mark.update(opened.read(_PIECE))
    return mark.hexdigest()[:16]
