"""The object store: one interface, a bucket (`.s3`) or a folder (`.folder`) behind it.

Objects are created once: the first write of a key wins and later ones adopt what is there, so that two workers that
made the same picture leave one object, whose hash is the one in the row.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, cast
from urllib.parse import urlsplit

from storage.errors import BadSettings, InvalidInput
from storage.objects.folder import LocalObjects
from storage.objects.object_keys import Stored
from storage.settings import Settings


class ObjectStore(Protocol):
    """A flat store of immutable objects. Keys are our own: letters, digits, `_`, `-`, `.` and `/`.

    Every method raises ObjectStoreProblem if the store does not answer (a retry can help), and ObjectStoreRefused if it
    refuses (bucket missing, forbidden).
    """

    #: The store's address, without secrets.
    shown: str

    def put(self, key: str, data: bytes | IO[bytes]) -> Stored:
        """Store an object, or adopt the one that exists under this key. Idempotent; files are streamed."""
        ...

    def get(self, key: str) -> bytes:
        """Return an object's bytes. Raises NotFound."""
        ...

    def copy(self, key: str, file: IO[bytes]) -> None:
        """Copy an object into a file, piece by piece. Raises NotFound."""
        ...

    def link(self, key: str, to: Path) -> bool:
        """Give an object's own file another name, `to`, for reading only; return False where that cannot be."""
        ...

    def exists(self, key: str) -> bool: ...

    def presign(self, key: str, *, seconds: int = 900) -> str:
        """Return a URL that downloads the object without credentials, for so many seconds."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object. Idempotent: no error where there is none."""
        ...

    def delete_below(self, folder: str) -> None:
        """Delete whatever there is below a folder of keys. Idempotent."""
        ...

    def remove_unfinished(self, *, seconds: float) -> int:
        """Remove what writers left that were killed, and nobody wrote to for so long; return how much there was."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """List the keys that begin with `prefix`, in order."""
        ...

    def check(self) -> None:
        """Raise ObjectStoreProblem if the store cannot be used; write nothing."""
        ...


class Bucket(ObjectStore, Protocol):
    """A place in any bucket, where objects may be replaced and have a size."""

    def upload(self, key: str, file: Path) -> None:
        """Store a file, replacing what is there; no reader sees a part of it."""
        ...

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""
        ...


def open_objects(settings: Settings) -> ObjectStore:
    """Open the store that the settings name. Raises BadSettings. Nothing is contacted yet."""
    url = settings.objects
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise BadSettings(f"FARM_OBJECTS_URL={url}: expected s3://bucket or s3://bucket/prefix")
        endpoint = settings.s3_endpoint_url
        if endpoint is not None and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint):
            raise BadSettings(f"FARM_S3_ENDPOINT_URL={endpoint}: expected http://host:port or https://host")
        return _bucket(parts.netloc, parts.path, settings)
    if parts.scheme in ("", "file"):
        return LocalObjects(Path(parts.path if parts.scheme else url))
    raise BadSettings(f"FARM_OBJECTS_URL={url}: expected s3://bucket or a folder")


def open_place(url: str, settings: Settings) -> Bucket:
    """Open `s3://bucket/prefix`, in any bucket, with the farm's endpoint and keys. Raises BadSettings."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise BadSettings(f"{url}: expected s3://bucket/prefix")
    return _bucket(bucket, prefix, settings, named="the address")


def copy_object(url: str, file: IO[bytes], settings: Settings, *, at_most: int | None = None) -> None:
    """Copy an object of any bucket, `s3://bucket/key`, into a file; memory stays flat.

    Raises NotFound, BadSettings, ObjectStoreProblem; InvalidInput if it is larger than `at_most` bytes.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise BadSettings(f"{url}: expected s3://bucket/key")
    there = _bucket(bucket, "", settings, named="the address")
    there.copy(key, file if at_most is None else cast("IO[bytes]", _BoundedFile(file, url, at_most)))


class _BoundedFile:
    """A file that takes so many bytes, whatever the store said how many there are."""

    def __init__(self, file: IO[bytes], shown: str, at_most: int) -> None:
        self._file = file
        self._shown = shown
        self._at_most = self._left = at_most

    def write(self, data: bytes) -> int:
        """Raises InvalidInput for more than the file takes."""
        self._left -= len(data)
        if self._left < 0:
            raise InvalidInput(f"{self._shown}: larger than {self._at_most // 2**20} MB")
        return self._file.write(data)


def _bucket(name: str, prefix: str, settings: Settings, *, named: str = "FARM_OBJECTS_URL") -> Bucket:
    # Loaded here: boto3 takes half a second, and a farm that keeps its objects in a folder never needs it.
    from storage.objects.s3 import S3Objects

    return S3Objects(bucket=name, prefix=prefix.strip("/"), endpoint_url=settings.s3_endpoint_url, named=named)
