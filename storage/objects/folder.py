"""The object store in a folder of this machine. What each method promises is in `storage.objects.store.ObjectStore`."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from storage.errors import NotFound, ObjectStoreProblem, ObjectStoreRefused
from storage.objects.object_keys import Stored, checked, described

#: How files begin that have no object's name yet; no key does.
_UNFINISHED = ".new-"


class LocalObjects:
    """A folder, one file per object."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.shown = str(self._folder)

    def put(self, key: str, data: bytes | IO[bytes]) -> Stored:
        path = self._path(key)
        source, stored = described(key, data)
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
            try:
                with os.fdopen(handle, "wb") as file:
                    shutil.copyfileobj(source, file)
                    file.flush()
                    os.fsync(file.fileno())  # a row must not outlive its picture in a power cut
                    os.fchmod(file.fileno(), 0o644)
                # Fails where the key exists, atomically: the file system's If-None-Match.
                os.link(temporary, path)
                sync_folder(path.parent)
            except FileExistsError:
                with path.open("rb") as there:
                    stored = described(key, there)[1]
            finally:
                os.unlink(temporary)
        return stored

    def get(self, key: str) -> bytes:
        with self._reading(key) as file:
            return file.read()

    def copy(self, key: str, file: IO[bytes]) -> None:
        with self._reading(key) as there:
            shutil.copyfileobj(there, file)

    def link(self, key: str, to: Path) -> bool:
        try:
            os.link(self._path(key), to)
        except OSError:
            return False  # no such object, another disk, or one that has no links: whoever reads it learns which
        return True

    def exists(self, key: str) -> bool:
        with self._translated():
            return self._path(key).is_file()

    def presign(self, key: str, *, seconds: int = 900) -> str:  # noqa: ARG002 - files have no expiry
        return self._path(key).as_uri()

    def delete(self, key: str) -> None:
        with self._translated():
            self._path(key).unlink(missing_ok=True)

    def delete_below(self, folder: str) -> None:
        with self._translated(), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._path(folder))

    def remove_unfinished(self, *, seconds: float) -> int:
        # By when it was written to last: whoever was frozen for so long finds no file to link, and stores it again.
        last = time.time() - seconds
        removed = 0
        with self._translated():
            for path in self._unfinished():
                # Its writer may be done with it, and a render deleted, at any moment.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < last:
                        path.unlink()
                        removed += 1
        return removed

    def _unfinished(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._folder, onerror=_unless_gone):
            for name in names:
                if name.startswith(_UNFINISHED):
                    yield Path(folder, name)

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._translated():
            keys = (
                path.relative_to(self._folder).as_posix()
                for path in (self._folder / prefix.rpartition("/")[0]).rglob("*")
                if path.is_file() and not path.name.startswith(_UNFINISHED)
            )
            yield from sorted(key for key in keys if key.startswith(prefix))

    def check(self) -> None:
        with self._translated():
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[IO[bytes]]:
        with self._translated():
            try:
                with self._path(key).open("rb") as file:
                    yield file
            except FileNotFoundError:
                raise NotFound(f"no object {key} in {self.shown}") from None

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise ObjectStoreRefused(f"objects in {self.shown}: {error}") from error
        except OSError as error:
            raise ObjectStoreProblem(f"objects in {self.shown}: {error}") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk itself: what was made or renamed there is then found after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
