"""The text of a registry's file as people's editors write it: with a byte order mark or Windows' line ends, too."""

from pathlib import Path

from storage.errors import BadSettings

#: Some editors write it at the start of UTF-8; it means nothing there.
MARK = "\ufeff"
_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """Return what a registry's file says, line ends and mark included.

    Raises FileNotFoundError; BadSettings if it cannot be read, or is written in another encoding than UTF-8.
    """
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadSettings(f"model registry {path}: {error.strerror or error}") from None
    try:
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + written.count(b"\n", 0, error.start)
        what = "it is UTF-16" if written.startswith(_OF_UTF_16) else f"line {line} has a letter in another encoding"
        raise BadSettings(f"model registry {path}: {what}; save it as UTF-8, which TOML is written in") from None
