"""Keys of objects, and what is stored under one."""

import hashlib
import io
import re
from dataclasses import dataclass
from typing import IO

_KEY = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]*(/[0-9A-Za-z_][0-9A-Za-z_.-]*)*")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What the store holds under a key: not what was sent, if another writer was first."""

    key: str
    sha256: str
    bytes: int


def picture_key(render_id: str, index: int) -> str:
    """Return a picture's key: a pure function of render and index, so that making it twice stores it once."""
    return f"{folder_of(render_id)}/{index:06d}.png"


def thumbnail_key(render_id: str, index: int, side: int) -> str:
    """Return the key of a picture's thumbnail: in its render's folder, which goes with the render."""
    return f"{folder_of(render_id)}/thumbnails/{side}/{index:06d}.webp"


def folder_of(render_id: str) -> str:
    """Return the folder that holds a render's pictures, their thumbnails, and nothing else."""
    return f"renders/{render_id}"


def described(key: str, data: bytes | IO[bytes]) -> tuple[IO[bytes], Stored]:
    """Return the data as a file at its beginning, and what will be stored."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # `IO` says too little
    stored = Stored(key=key, sha256=sha256, bytes=file.seek(0, io.SEEK_END))
    file.seek(0)
    return file, stored


def checked(key: str) -> str:
    """Return the key. Raises ValueError if it is not one of the farm's."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key!r}")
    return key
