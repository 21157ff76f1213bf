"""Destinations of an export: a folder, or a prefix of a bucket. Nothing half-written ever has its final name.

Both build a shard in a working folder on this machine; what is in it is gone on with after an interruption.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from storage.errors import ExportProblem, InvalidInput, NotFound
from storage.objects.folder import sync_folder
from storage.objects.store import Bucket, open_place
from storage.settings import Settings

#: What an export says of itself; readers of Hugging Face's and of Arrow's pass such a folder over.
PAPERS = "__export"
#: Says what is written here: that of another export is not touched.
NOTE = f"{PAPERS}/export.json"
#: An export into a bucket that was interrupted and nobody came back to for so long leaves nothing on this machine; it
#: can be resumed still, and fetches the pictures of one shard again.
_ABANDONED_SECONDS = 7 * 86_400.0


class Target(Protocol):
    """Every method raises ExportProblem or ObjectStoreProblem where the place is full, gone or refuses."""

    #: Its address, as the table of exports and messages name it.
    shown: str

    def claim(self, note: Mapping[str, Any]) -> contextlib.AbstractContextManager[Path]:
        """Claim the place for an export, or resume one; return the working folder.

        Raises InvalidInput if something else is there, or another process is writing.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """What is there under a name."""
        ...

    def holds(self, name: str) -> int | None:
        """The bytes of a file that is there, or how many files there are in a folder; None if there is neither."""
        ...

    def place(self, name: str, built: Path) -> None:
        """Give a file or folder that is complete its final name, in place of what had it; it is durable then."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or folder. Idempotent."""
        ...


def open_target(to: str, settings: Settings) -> Target:
    """Raises BadSettings, and InvalidInput for no place at all. Nothing is looked at yet."""
    if not to.strip():
        # As of a variable of a script that is not set: the folder that one happens to be in is not meant.
        raise InvalidInput("--to is empty; name a folder, or s3://BUCKET/PREFIX")
    if to.startswith("s3://"):
        return BucketTarget(open_place(to, settings), to.rstrip("/"), settings.home)
    return FolderTarget(Path(to))


class FolderTarget:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.shown = str(self._folder)

    @contextmanager
    def claim(self, note: Mapping[str, Any]) -> Iterator[Path]:
        working = self._folder / ".export"
        with writing(self.shown):
            # Also before anything is made here.
            _check_note(self.read(NOTE), note, self.shown)
            if self._folder.exists() and self._something_else():
                raise InvalidInput(f"--to {self.shown}: is not empty and holds no export; choose another folder")
            working.mkdir(parents=True, exist_ok=True)
        with _alone(working, self.shown):
            _check_note(self.read(NOTE), note, self.shown)
            with writing(self.shown):
                (working / "note").write_bytes(_lines(note))
                self.place(NOTE, working / "note")
            yield working
            with writing(self.shown):
                shutil.rmtree(working)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def holds(self, name: str) -> int | None:
        path = self._folder / name
        if path.is_dir():
            return sum(1 for _ in path.iterdir())
        return path.stat().st_size if path.is_file() else None

    def place(self, name: str, built: Path) -> None:
        final = self._folder / name
        with writing(self.shown):
            _to_disk(built)
            if final.is_dir():
                shutil.rmtree(final)
            if final.parent != self._folder:
                # Not with its parents: a place that is gone is not made again in the middle.
                final.parent.mkdir(exist_ok=True)
            os.replace(built, final)
            sync_folder(final.parent)

    def remove(self, name: str) -> None:
        final = self._folder / name
        with writing(self.shown):
            if final.is_dir():
                shutil.rmtree(final)
            else:
                final.unlink(missing_ok=True)

    def _something_else(self) -> bool:
        found = {path.name for path in self._folder.iterdir()}
        return bool(found) and not found & {PAPERS, ".export"}


class BucketTarget:
    def __init__(self, place: Bucket, to: str, home: Path) -> None:
        self._place = place
        self._working = home / "exports" / hashlib.sha256(to.encode()).hexdigest()[:16]
        self.shown = to

    @contextmanager
    def claim(self, note: Mapping[str, Any]) -> Iterator[Path]:
        with writing(str(self._working)):
            self._working.mkdir(parents=True, exist_ok=True)
            os.utime(self._working)
            _remove_abandoned(self._working.parent, besides=self._working)
        with _alone(self._working, self.shown):
            before = self.read(NOTE)
            if before is None and next(iter(self._place.list()), None) is not None:
                raise InvalidInput(f"--to {self.shown}: is not empty and holds no export; choose another prefix")
            _check_note(before, note, self.shown)
            with writing(str(self._working)):
                (self._working / "note").write_bytes(_lines(note))
            self.place(NOTE, self._working / "note")
            yield self._working
            with writing(str(self._working)):
                shutil.rmtree(self._working)

    def read(self, name: str) -> bytes | None:
        try:
            return self._place.get(name)
        except NotFound:
            return None

    def holds(self, name: str) -> int | None:
        size = self._place.size(name)
        return size if size is not None else sum(1 for _ in self._place.list(f"{name}/")) or None

    def place(self, name: str, built: Path) -> None:
        if not built.is_dir():
            self._place.upload(name, built)
            return
        files = {f"{name}/{file.name}": file for file in sorted(built.iterdir())}
        for key, file in files.items():
            self._place.upload(key, file)
        # Of the folder that had the name before.
        for key in self._place.list(f"{name}/"):
            if key not in files:
                self._place.delete(key)

    def remove(self, name: str) -> None:
        self._place.delete(name)
        self._place.delete_below(name)


def _remove_abandoned(exports: Path, *, besides: Path) -> None:
    """Remove the working folders in which nobody writes, and nobody has for a week."""
    last = time.time() - _ABANDONED_SECONDS
    for working in exports.iterdir():
        with contextlib.suppress(FileNotFoundError, InvalidInput):  # others remove it, or go on with it
            if working != besides and working.stat().st_mtime < last:
                with _alone(working, str(working)):
                    shutil.rmtree(working)


@contextmanager
def _alone(working: Path, shown: str) -> Iterator[None]:
    with (working / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"--to {shown}: another process is writing there; wait until it is done") from None
        yield


def _check_note(before: bytes | None, note: Mapping[str, Any], shown: str) -> None:
    if before is None:
        return
    try:
        found = json.loads(before)
    except ValueError:
        found = None
    if found != dict(note):
        said = ", ".join(f"{name} {value}" for name, value in found.items()) if isinstance(found, dict) else ""
        what = f"another export ({said})" if said else "something else"
        raise InvalidInput(
            f"--to {shown}: already holds {what}; resume it with the same options, or choose another target"
        )


def _to_disk(built: Path) -> None:
    """Put a file, or a folder of files, on the disk itself: a name that it gets must not outlive it in a power cut."""
    if built.is_dir():
        for one in built.iterdir():
            _to_disk(one)
        sync_folder(built)
        return
    with built.open("rb") as file:
        os.fsync(file.fileno())


def _lines(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


@contextmanager
def writing(shown: str) -> Iterator[None]:
    """Raises ExportProblem where a file of an export cannot be written."""
    try:
        yield
    except OSError as error:
        raise ExportProblem(
            f"{shown}: cannot be written to ({error.strerror or error}); once that is fixed, the same command resumes"
        ) from None
