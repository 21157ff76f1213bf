"""Names that callers give their pictures: each once in an order, however many there are."""

import sqlite3
from types import TracebackType
from typing import Self

from storage.errors import BadSpecification

#: Beyond it they go to a temporary file.
_CACHE_KIB = 16_384
#: Bytes of marks, a bit for each of them; of a million names one in twenty finds its bit set by another.
_MARKS = 2**21
#: Names that are written together.
_TOGETHER = 1_000


class CustomIds:
    """Remember the names of an order's pictures, with their places, and refuse one that is taken.

    In a temporary database of SQLite: a million names take no memory, and the place of the first is at hand. It is
    asked only about names that may be there: those whose mark is set (a Bloom filter with one hash).
    """

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None
        self._marks = bytearray()
        #: Names that are not in the database yet, with their places; all different.
        self._new: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._database is not None:
            self._database.close()

    def take(self, name: str, where: str) -> None:
        """Take a name. Raises BadSpecification with the place of the picture that has it."""
        if self._database is None:
            self._database, self._marks = _opened(), bytearray(_MARKS)
        mark = hash(name)
        byte, bit = (mark >> 3) % _MARKS, 1 << (mark & 7)
        if not self._marks[byte] & bit:
            self._marks[byte] |= bit
            self._new.append((name, where))
            if len(self._new) >= _TOGETHER:
                self._write(self._database)
            return
        self._write(self._database)
        taken = self._database.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (name, where)).rowcount == 0
        if taken:
            [(first,)] = self._database.execute("SELECT place FROM names WHERE name = ?", (name,))
            other = f"{first} has it, too" if first != where else "another picture of it has it, too"
            raise BadSpecification(f"duplicate custom_id {name!r}; {other}")

    def _write(self, database: sqlite3.Connection) -> None:
        database.executemany("INSERT INTO names VALUES (?, ?)", self._new)
        self._new.clear()


def _opened() -> sqlite3.Connection:
    # Without a name: a temporary file. Generators may end in another thread than they began in.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    database.execute("CREATE TABLE names (name TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
    database.execute("BEGIN")
    return database
