"""A render's pictures as one ZIP archive, made while it is read: memory stays flat, however many they are."""

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO

from scheduler.results import picture_index
from scheduler.results.thumbnails import picture_of
from scheduler.results.zip_format import ZipEntry, ZipFormat
from storage.errors import NotFound
from storage.objects.store import ObjectStore
from storage.renders.filters import JobFilter
from storage.renders.views import JobView, Views
from storage.rules.states import State

#: What is told of pictures that should be in the archive and are not.
MISSING = "MISSING.txt"
#: Pictures in memory: a store far away answers late, but several at once.
_FETCHED_AHEAD = 3
#: Of directory, index and what is missing, each; the rest is on the disk.
_IN_MEMORY = 2**20
_COPIED_AT_ONCE = 2**18


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The finished pictures of a render, under the names that downloads have, with an index as downloads have."""

    views: Views
    objects: ObjectStore
    render_id: str
    #: Only pictures with all of these labels.
    labels: Mapping[str, str] = field(default_factory=dict)

    def is_empty(self) -> bool:
        """Return whether no picture is finished, of those that are asked for."""
        return next(self._jobs(limit=1), None) is None

    def parts(
        self, told: Callable[[JobView, str | None], None] = lambda _job, _problem: None
    ) -> Generator[bytes, None, None]:
        """Yield the archive; a picture that is finished meanwhile is in it or not.

        The same finished render gives the same bytes. What is gone or damaged is told in a text file within, as is
        that the render was deleted meanwhile; `told` hears of each picture, and why it is missing.

        Raises DatabaseProblem, ObjectStoreProblem: then what there is of it cannot be used.
        """
        with ExitStack() as files:
            directory: IO[bytes] = files.enter_context(SpooledTemporaryFile(_IN_MEMORY))
            index, missing = _SpooledText.opened(files), _SpooledText.opened(files)
            form = ZipFormat(directory)
            # Left at the latest when nobody reads on: what is on its way is waited for, and the rest is not fetched.
            pool = ThreadPoolExecutor(_FETCHED_AHEAD, thread_name_prefix="archive")
            files.callback(pool.shutdown, cancel_futures=True)
            for job, fetched in self._fetched(pool):
                index.at = missing.at = max(index.at, job.finished_at or 0.0)
                try:
                    data = fetched.result()
                except NotFound as error:
                    missing.add(f"{job.file_name}: {error}")
                    told(job, str(error))
                    continue
                entry = ZipEntry(name=job.file_name, size=len(data), crc32=zlib.crc32(data), at=job.finished_at or 0.0)
                yield form.header(entry)
                yield data
                index.add(picture_index.line_of(job, job.file_name))
                told(job, None)
            self._look_whether_it_is_there(missing)
            yield from index.parts(form, picture_index.NAME)
            if missing.size:
                yield from missing.parts(form, MISSING)
            yield from form.end()

    def _jobs(self, limit: int | None = None) -> Iterator[JobView]:
        return self.views.jobs(self.render_id, state=State.DONE, which=JobFilter(labels=self.labels), limit=limit)

    def _fetched(self, pool: ThreadPoolExecutor) -> Iterator[tuple[JobView, Future[bytes]]]:
        """Yield each picture in order, while the next ones are being fetched."""
        jobs = self._jobs()

        def begun(job: JobView) -> tuple[JobView, Future[bytes]]:
            return job, pool.submit(picture_of, self.objects, job)

        ahead = deque(begun(job) for job in islice(jobs, _FETCHED_AHEAD))
        while ahead:
            yield ahead.popleft()
            ahead.extend(begun(job) for job in islice(jobs, 1))

    def _look_whether_it_is_there(self, missing: "_SpooledText") -> None:
        try:
            self.views.render(self.render_id)
        except NotFound:
            missing.add(f"render {self.render_id} was deleted while this archive was made; the rest of it is not here")


@dataclass
class _SpooledText:
    """A text file of the archive, which grows on the disk until it is its turn."""

    file: IO[bytes]
    size: int = 0
    crc32: int = 0
    #: When its last line became true.
    at: float = 0.0

    @classmethod
    def opened(cls, files: ExitStack) -> "_SpooledText":
        return _SpooledText(files.enter_context(SpooledTemporaryFile(_IN_MEMORY)))

    def add(self, line: str) -> None:
        data = f"{line}\n".encode()
        self.file.write(data)
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def parts(self, form: ZipFormat, name: str) -> Iterator[bytes]:
        yield form.header(ZipEntry(name=name, size=self.size, crc32=self.crc32, at=self.at))
        self.file.seek(0)
        while some := self.file.read(_COPIED_AT_ONCE):
            yield some
