"""How many parts a picture's file has, told without decoding any: readers of pictures keep an object for each part.

A JPEG of four bytes a segment takes thirty times its size in memory, and each scan of a progressive one, which can be
seventy bytes, is work over all of its pixels.
"""

import re
from collections.abc import Iterator
from itertools import islice

#: Of PNG and WebP the chunks, of JPEG the segments. 256 MiB written by libpng, in pieces of 8 KiB, have 32,768.
MOST_PARTS = 100_000
#: Encoders make ten; a script that splits every bit of every component makes sixty.
MOST_SCANS = 100
_PNG = b"\x89PNG\r\n\x1a\n"
#: What begins a segment: neither a byte of 255 within a scan (followed by 0), nor a restart within it, nor filling.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
#: TEM, SOI and EOI have no length.
_BARE = (0x01, 0xD8, 0xD9)
_SCAN = 0xDA


def check_parts(data: bytes) -> int:
    """Raise ValueError if a PNG, JPEG or WebP has more parts, or scans, than pictures have. Others pass.

    Returns how many scans a JPEG has; 0 for others.
    """
    scans = 0
    for number, kind in enumerate(islice(_parts(data), MOST_PARTS + 1), start=1):
        if number > MOST_PARTS:
            raise ValueError(f"a picture of more than {MOST_PARTS:,} parts; save it again, without its metadata")
        scans += kind == _SCAN
        if scans > MOST_SCANS:
            raise ValueError(f"a progressive JPEG of more than {MOST_SCANS} scans; save it again")
    return scans


def _parts(data: bytes) -> Iterator[int | None]:
    """Yield each part: of a JPEG its marker, of others nothing of it."""
    if data.startswith(_PNG):
        return _chunks(data, at=len(_PNG), order="big", beside=12)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _chunks(data, at=12, order="little", beside=8)
    return _segments(data) if data.startswith(b"\xff\xd8") else iter(())


def _chunks(data: bytes, *, at: int, order: str, beside: int) -> Iterator[None]:
    """Yield each chunk; `beside`: the bytes of one that has no data."""
    start = 0 if order == "big" else 4
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + start : at + start + 4], order)  # type: ignore[arg-type]
        # RIFF fills odd ones up.
        at += beside + length + (length % 2 if order == "little" else 0)
        yield None


def _segments(data: bytes) -> Iterator[int]:
    at = 0
    while (found := _MARKER.search(data, at)) is not None:
        kind, at = found[1][0], found.end()
        if kind not in _BARE:
            at += int.from_bytes(data[at : at + 2], "big")
        yield kind
