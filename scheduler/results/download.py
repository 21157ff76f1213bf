"""Downloading the pictures of a render while it runs."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.errors import InvalidInput, ObjectStoreProblem
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views
from storage.rules.states import FINAL, State

#: Pictures looked at in one round: memory and work stay bounded however large the render.
_WINDOW = 500
_THREADS = 4


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


class Downloads:
    """Writes each finished picture once, as `<index>-<seed>.png`."""

    def __init__(self, views: Views, objects: ObjectStore, render_id: str, folder: Path) -> None:
        self._views = views
        self._objects = objects
        self._render_id = render_id
        self._folder = folder
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
        fetched = list(self._pool.map(self.fetch, finished))
        self._ahead.update(job.index for job in finished)
        self._move_on(window)
        return len(fetched)

    def fetch(self, job: JobView) -> Path:
        """Fetch one picture and return its file. Raises ObjectStoreProblem if the stored object is damaged.

        A file of this name that holds another picture is kept: then this one gets the render's id in its name.
        """
        if job.object is None:
            raise ValueError(f"job {job.id} has no picture")
        data = self._objects.get(job.object)
        if hashlib.sha256(data).hexdigest() != job.sha256:
            raise ObjectStoreProblem(f"job {job.id}: the picture in {self._objects.shown} is damaged ({job.object})")
        path = self._folder / job.file_name
        unfinished = self._folder / f"{job.id}.part"
        try:
            if path.exists() and (not path.is_file() or path.read_bytes() != data):
                path = path.with_stem(f"{path.stem}-{job.render_id}")
                self.renamed[job.index] = path
            unfinished.write_bytes(data)
            unfinished.rename(path)
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be written ({error.strerror})") from None
        return path

    def _move_on(self, window: Iterable[JobView]) -> None:
        for job in window:
            if job.state not in FINAL:
                return
            self._complete_to = job.index
            self._ahead.discard(job.index)
