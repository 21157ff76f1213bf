"""From bytes to lines: any encoding that editors and spreadsheets write, any line end, no line too long for memory."""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification

#: A longer line is no prompt but another kind of file; it is not read into memory.
MAX_LINE = 4_000_000

#: By their byte order marks; UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1024
_HEAD_BYTES = 2**16
#: Bytes that are not UTF-8, as the error handler `surrogateescape` passes them on.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_ENDS = ("\n", "\r")


@contextmanager
def decoded(file: IO[bytes]) -> Iterator[IO[str]]:
    """Yield the text of a file, from its beginning, with its line ends as they are; the file is not closed.

    Bytes that are not UTF-8 become lone surrogates, which `read_lines` reports.
    """
    file.seek(0)
    encoding = _encoding(file.read(_SAMPLE_BYTES))
    file.seek(0)
    # utf-8-sig: spreadsheets often write a byte order mark.
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")
    try:
        yield text
    finally:
        # A wrapper that is given up closes its file, which is not its own.
        if not file.closed:
            text.detach()


def head(file: IO[bytes]) -> str:
    """Return the beginning of a file's text, by which its form is known; the file is at its beginning afterwards."""
    file.seek(0)
    start = file.read(_HEAD_BYTES)
    file.seek(0)
    return start.decode(_encoding(start[:_SAMPLE_BYTES]), errors="ignore")


def read_lines(file: IO[bytes], shown: str, bad: BadRows) -> Iterator[tuple[str, str]]:
    """Yield every line of a file with its place. Of a line that is too long only the beginning is ever in memory.

    Raises BadSpecification with the place of a line that is no text, unless `bad` leaves it out.
    """
    number = 0
    try:
        with decoded(file) as text:
            while line := text.readline(MAX_LINE):
                number += 1
                where = f"{shown} line {number}".lstrip()
                if len(line) == MAX_LINE and not line.endswith(_ENDS):
                    while (rest := text.readline(MAX_LINE)) and not rest.endswith(_ENDS):
                        pass
                    bad.met(BadSpecification(f"{where}: longer than {MAX_LINE:,} characters; is this a prompt file?"))
                elif not line.isascii() and (wrong := _NOT_UTF8.search(line)):
                    bad.met(BadSpecification(f"{where}: {_not_utf8(wrong)}"))
                elif "\0" in line:
                    bad.met(BadSpecification(f"{where}: not text (it has the character NUL); save the file as UTF-8"))
                else:
                    # Where files were joined, byte order marks stand within.
                    yield where, line if line.isascii() else line.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        # After it no line can be told from the next.
        begun = error.encoding[:6].upper()
        raise BadSpecification(
            f"{shown} line {number + 1}: not {begun} text, as which the file begins; save it as UTF-8"
        ) from None


def _not_utf8(wrong: re.Match[str]) -> str:
    """Say what is wrong with a line that has such a byte."""
    byte = ord(wrong[0]) - 0xDC00
    return f"not UTF-8 text (byte {byte:#04x} after {wrong.start()} characters); save the file as UTF-8"


def _encoding(sample: bytes) -> str:
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    # Without a mark: of letters in UTF-16, every other byte is zero.
    even, odd = sample[::2], sample[1::2]
    for zeros, letters, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros and zeros.count(0) * 2 > len(zeros) and letters.count(0) * 10 < len(letters):
            return encoding
    return "utf-8-sig"
