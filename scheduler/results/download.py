"""Downloading the pictures of a render while it runs."""

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from scheduler.results.file_names import FileNames
from scheduler.results.picture_index import PictureIndex
from storage.errors import InvalidInput, NotFound, ObjectStoreProblem
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views
from storage.rules.states import FINAL, State

#: Pictures looked at in one round: memory and work stay bounded however large the render.
_WINDOW = 500
_THREADS = 4
#: Nobody writes one picture for so long: a process that was killed has left it.
_ABANDONED_SECONDS = 86_400.0


def prepare_folder(folder: Path, *, option: str = "--out") -> None:
    """Create a folder for pictures. Raises InvalidInput, naming the option, if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(
            f"{option} {folder}: cannot be written to ({error.strerror}); choose another folder"
        ) from None


def check_folder(folder: Path, *, option: str = "--out") -> None:
    """Raise InvalidInput, naming the option, if a folder for pictures could not be created or written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        raise InvalidInput(f"{option} {folder}: cannot be written to ({reason}); choose another folder")


def _holds(path: Path, sha256: str | None) -> bool:
    """Return whether a file holds these bytes."""
    try:
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


def _remove_abandoned(folder: Path, render_id: str) -> None:
    """Remove what downloads of a render that were killed have left unfinished."""
    last = time.time() - _ABANDONED_SECONDS
    try:
        for path in folder.glob(f"{render_id}-*.part"):
            # Another process may be done with it at any moment.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < last:
                    path.unlink()
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be written to ({error.strerror})") from None


def _placed(unfinished: Path, named: Path, own: Path, sha256: str | None) -> tuple[Path, bool]:
    """Give a file the first of two names that is free; which, and False if another process put these bytes there."""
    for path in (named, own):
        try:
            # Unlike a move, this never replaces what another process has put there meanwhile.
            os.link(unfinished, path)
        except FileExistsError:
            if _holds(path, sha256):
                return path, False
        except OSError:
            # A file system without links.
            if not path.exists():
                unfinished.rename(path)
                return path, True
        else:
            return path, True
    # Its own name: a damaged copy.
    unfinished.replace(own)
    return own, True


class Downloads:
    """Writes each finished picture once, and over no other file; what is there already is not fetched again."""

    def __init__(
        self, views: Views, objects: ObjectStore, render_id: str, folder: Path, *, names: FileNames | None = None
    ) -> None:
        """Prepare to write; without `names`, `<index>-<seed>.png`. Raises InvalidInput if the folder refuses."""
        _remove_abandoned(folder, render_id)
        self._views = views
        self._objects = objects
        self._render_id = render_id
        self._folder = folder
        self._names = names
        #: Says of each file whose picture it is.
        self.index = PictureIndex(folder, render_id)
        self._placing = threading.Lock()
        #: How many were written, and how many were there already.
        self.written = self.found = 0
        #: Index → file of a picture whose name another picture had.
        self.renamed: dict[int, Path] = {}
        #: Every job up to this index is final, and its picture here.
        self._complete_to = -1
        #: Beyond it, jobs whose picture is here.
        self._ahead: set[int] = set()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="download")

    def advance(self) -> int:
        """Fetch the finished ones among the next pictures and return how many; call again until it returns 0."""
        window = list(self._views.jobs(self._render_id, after=self._complete_to, limit=_WINDOW))
        finished = [job for job in window if job.state is State.DONE and job.index not in self._ahead]
        fetched = [file for file in self._pool.map(self._fetched, finished) if file is not None]
        self.index.write()
        if len(fetched) < len(finished):
            self._look_whether_it_is_there()
        self._ahead.update(job.index for job in finished)
        self._move_on(window)
        return len(finished)

    def fetch_finished(self, show: Callable[[int], None]) -> None:
        """Fetch all that are finished now, telling after each how many that were so far."""
        n = 0
        finished = self._views.jobs(self._render_id, state=State.DONE)
        while some := [*islice(finished, _WINDOW)]:
            try:
                for _ in self._pool.map(self._fetched, some):
                    n += 1
                    show(n)
            finally:
                self.index.write()
        # Pages of a render that is being deleted are short, or missing.
        self._look_whether_it_is_there()

    def _fetched(self, job: JobView) -> Path | None:
        """Fetch one picture; None if it, or its render, was deleted meanwhile. Raises as `fetch`."""
        try:
            return self.fetch(job)
        except NotFound:
            try:
                self._views.job(job.id)
            except NotFound:
                return None
            raise ObjectStoreProblem(
                f"job {job.id}: its picture is not in {self._objects.shown} ({job.object})"
            ) from None

    def _look_whether_it_is_there(self) -> None:
        """Raise NotFound if the render was deleted."""
        try:
            self._views.render(self._render_id)
        except NotFound:
            kept = f"{self.written + self.found} of its pictures are in {self._folder}"
            raise NotFound(f"render {self._render_id} was deleted while it was downloaded; {kept}") from None

    def fetch(self, job: JobView) -> Path:
        """Fetch one picture, unless it is here, and return its file.

        A file of its name that holds another picture is kept: then this one gets the render's id in its name (with a
        pattern, under which two pictures of a render can have one name, the job's).
        Raises ObjectStoreProblem if the stored object is damaged, NotFound if there is none, InvalidInput if the file
        cannot be written.
        """
        if job.object is None:
            raise ValueError(f"job {job.id} has no picture")
        named = self._folder / (job.file_name if self._names is None else self._names(job))
        own = named.with_stem(f"{named.stem}-{job.render_id if self._names is None else job.id}")
        for path in (named, own):
            if _holds(path, job.sha256):
                return self._noted(job, path, renamed=path is own, found=True)
        data = self._objects.get(job.object)
        if hashlib.sha256(data).hexdigest() != job.sha256:
            raise ObjectStoreProblem(f"job {job.id}: the picture in {self._objects.shown} is damaged ({job.object})")
        # Of this process alone: another one may download the same.
        unfinished = self._folder / f"{job.id}-{secrets.token_hex(4)}.part"
        try:
            named.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            # One at a time: two pictures may come to have one name.
            with self._placing:
                path, placed = _placed(unfinished, named, own, job.sha256)
        except OSError as error:
            raise InvalidInput(f"{named}: cannot be written ({error.strerror})") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return self._noted(job, path, renamed=path is own, found=not placed)

    def _noted(self, job: JobView, path: Path, *, renamed: bool, found: bool = False) -> Path:
        with self._placing:
            self.found += found
            self.written += not found
            if renamed:
                self.renamed[job.index] = path
        self.index.add(job, path)
        return path

    def _move_on(self, window: Iterable[JobView]) -> None:
        for job in window:
            if job.state not in FINAL:
                return
            self._complete_to = job.index
            self._ahead.discard(job.index)
