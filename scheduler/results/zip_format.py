"""ZIP archives made front to back in constant memory, stored, not deflated: pictures are compressed as they are.

Libraries and Python's own `zipfile` keep some 500 bytes of each entry until the end, half a gigabyte for a million of
pictures; here the directory grows in a file. Fields are those of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5;
ZIP64 records are there where something needs them, and only there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from struct import Struct
from typing import IO

_LOCAL = Struct("<4sHHHHHLLLHH")
_CENTRAL = Struct("<4sHHHHHHLLLHHHHHLL")
_END_64 = Struct("<4sQHHLLQQQQ")
_LOCATOR_64 = Struct("<4sLQL")
_END = Struct("<4sHHHHLLH")
#: What a field of two or four bytes cannot say: then it holds this, and ZIP64 says it.
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
#: Names are UTF-8 (4.4.4, bit 11).
_UTF_8 = 1 << 11
#: Versions that readers must have: of plain entries, and of ZIP64 (4.4.3).
_PLAIN, _ZIP_64 = 20, 45
#: Made on Unix (4.4.2), a plain file that everybody may read.
_UNIX, _MODE = 3 << 8, 0o100644 << 16
_COPIED_AT_ONCE = 2**16
#: The time of an entry begins with this year (4.4.6).
_FIRST_YEAR, _LAST_YEAR = 1980, 2107


@dataclass(frozen=True, kw_only=True)
class ZipEntry:
    """One file of an archive."""

    name: str
    #: Of the data, in bytes.
    size: int
    #: Of the data (`zlib.crc32`).
    crc32: int
    #: When it was made, seconds since 1970; in an archive it has every other second, of UTC.
    at: float


@dataclass
class ZipFormat:
    """Writes what stands around the data of an archive: a header before each, the directory at the end."""

    #: Where the directory grows; a temporary file.
    directory: IO[bytes]
    #: Where the archive begins, in bytes: more than 0 behind something else.
    offset: int = 0
    entries: int = field(default=0, init=False)

    def header(self, entry: ZipEntry) -> bytes:
        """Return what comes before an entry's data, which must follow at once."""
        name, moment = entry.name.encode(), _dos_time(entry.at)
        large = entry.size >= _FULL_32
        size = _FULL_32 if large else entry.size
        sizes = [entry.size, entry.size] if large else []
        extra = _extra(sizes)
        version = _ZIP_64 if large else _PLAIN
        shared = (_UTF_8, 0, *moment, entry.crc32, size, size, len(name))
        header = _LOCAL.pack(b"PK\x03\x04", version, *shared, len(extra)) + name + extra
        self._note(name, shared, sizes)
        self.offset += len(header) + entry.size
        return header

    def _note(self, name: bytes, shared: tuple[int, ...], sizes: list[int]) -> None:
        far = self.offset >= _FULL_32
        extra = _extra([*sizes, *([self.offset] if far else [])])
        version = _ZIP_64 if extra else _PLAIN
        begins = _FULL_32 if far else self.offset
        made_by = _UNIX | version
        self.directory.write(
            _CENTRAL.pack(b"PK\x01\x02", made_by, version, *shared, len(extra), 0, 0, 0, _MODE, begins) + name + extra
        )
        self.entries += 1

    def end(self) -> Iterator[bytes]:
        """Yield the directory, the archive's end."""
        size = self.directory.tell()
        self.directory.seek(0)
        while some := self.directory.read(_COPIED_AT_ONCE):
            yield some
        counted, where = min(self.entries, _FULL_16), min(self.offset, _FULL_32)
        if counted == _FULL_16 or where == _FULL_32 or size >= _FULL_32:
            numbers = (self.entries, self.entries, size, self.offset)
            # Of the record's length, what comes after the length itself (4.3.14.1).
            yield _END_64.pack(b"PK\x06\x06", _END_64.size - 12, _UNIX | _ZIP_64, _ZIP_64, 0, 0, *numbers)
            yield _LOCATOR_64.pack(b"PK\x06\x07", 0, self.offset + size, 1)
        yield _END.pack(b"PK\x05\x06", 0, 0, counted, counted, min(size, _FULL_32), where, 0)


def _extra(numbers: list[int]) -> bytes:
    """Return the ZIP64 field of these numbers (4.5.3); nothing for none."""
    return b"" if not numbers else Struct(f"<HH{len(numbers)}Q").pack(1, 8 * len(numbers), *numbers)


def _dos_time(at: float) -> tuple[int, int]:
    """Return time and date as MS-DOS has them (4.4.6)."""
    moment = datetime.fromtimestamp(at, UTC)
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        moment = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC)
    time = moment.hour << 11 | moment.minute << 5 | moment.second // 2
    return time, (moment.year - _FIRST_YEAR) << 9 | moment.month << 5 | moment.day
