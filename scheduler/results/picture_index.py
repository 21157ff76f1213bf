"""The index beside downloaded pictures, `pictures.jsonl`: an object per picture, for programs that read a folder.

Lines are only ever added, under a lock: several renders, and several processes, may write into one folder.
"""

import fcntl
import json
import threading
from pathlib import Path
from typing import IO, Any

from storage.errors import InvalidInput
from storage.renders.views import JobView

NAME = "pictures.jsonl"


class PictureIndex:
    """Notes pictures once each; what a killed process left of a line is removed."""

    def __init__(self, folder: Path, render_id: str) -> None:
        self._folder = folder
        self._render_id = render_id
        self._pending: dict[tuple[str, str], str] = {}
        self._noted: set[tuple[str, str]] = set()
        self._read_to = 0
        #: None until it is known whether the file of that name is an index.
        self._path: Path | None = None
        self._adding = threading.Lock()

    @property
    def path(self) -> Path:
        """The index: another name where somebody's own file has that one."""
        if self._path is None:
            usual = self._folder / NAME
            self._path = usual if _is_index(usual) else usual.with_stem(f"{usual.stem}-{self._render_id}")
        return self._path

    def add(self, job: JobView, file: Path) -> None:
        """Have a picture noted by the next `write`."""
        name = file.relative_to(self._folder).as_posix()
        with self._adding:
            self._pending[(job.id, name)] = line_of(job, name)

    def write(self) -> None:
        """Write what was added since, but for what is noted already. Raises InvalidInput if that cannot be done."""
        with self._adding:
            pending, self._pending = self._pending, {}
        if not pending.keys() - self._noted:
            return
        try:
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._read(file)
                new = {key: line for key, line in pending.items() if key not in self._noted}
                # In the order of their indexes, as far as they came together; one write, so that no reader sees half.
                file.write("".join(f"{new[key]}\n" for key in sorted(new)).encode())
                file.flush()
                self._read(file)
        except OSError as error:
            raise InvalidInput(f"{self.path}: cannot be written ({error.strerror})") from None

    def _read(self, file: IO[bytes]) -> None:
        """Read what was written since the last time, by whomever."""
        file.seek(self._read_to)
        for line in file:
            if not line.endswith(b"\n"):
                # Whoever wrote it was killed: it would have the lock.
                file.truncate(self._read_to)
                return
            self._read_to += len(line)
            if (key := _key(line)) is not None:
                self._noted.add(key)


def line_of(job: JobView, file: str) -> str:
    """Return what the index says of a picture, in one line without its end."""
    said: dict[str, Any] = {
        "file": file,
        "job": job.id,
        "index": job.index,
        "seed": job.spec.seed,
        "prompt": job.spec.prompt,
        "custom_id": job.custom_id,
        "labels": None if job.labels is None else dict(job.labels),
        "sha256": job.sha256,
        "pixels_sha256": job.pixels_sha256,
    }
    return json.dumps(said, ensure_ascii=False)


def _is_index(path: Path) -> bool:
    """Return whether this is an index, or may become one."""
    try:
        with path.open("rb") as file:
            first = file.readline(2**20)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not first or _key(first) is not None or not first.endswith(b"\n")


def _key(line: bytes) -> tuple[str, str] | None:
    try:
        said = json.loads(line)
        return str(said["job"]), str(said["file"])
    except (ValueError, TypeError, KeyError):
        return None
