"""Gathering the pictures of a shard: read ahead by threads, checked by their hash, handed on in their order.

So each byte is read once, and hashed while those before it are written. Pictures of a store that is elsewhere stay in
the working folder until their shard is done: an interrupted export does not fetch them again.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from scheduler.export.targets import writing
from storage.errors import NotFound, ObjectStoreProblem
from storage.objects.store import ObjectStore
from storage.renders.views import JobView

#: Pictures fetched at once.
_THREADS = 8
#: Pictures fetched, or in memory, before the layout takes them.
_AHEAD = 16
_SHOWN_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Gathering:
    objects: ObjectStore
    #: The target, as messages name it.
    shown: str

    @contextmanager
    def of(self, wanted: Sequence[tuple[JobView, Path]], show: Callable[[int], None]) -> Iterator[Iterator[bytes]]:
        """Yield the pictures of these jobs, in their order; each may be left in its file.

        Raises ObjectStoreProblem, when it is its turn, for one that is not what was stored.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="export") as threads:
            try:
                yield _in_order(threads, (partial(self._one, *one) for one in wanted), show)
            finally:
                threads.shutdown(cancel_futures=True)

    def _one(self, job: JobView, file: Path) -> bytes:
        with writing(self.shown):
            # Brought here before, or the very file of a store on the same disk.
            if file.exists() or self.objects.link(str(job.object), file):
                data = file.read_bytes()
                if _is(data, job):
                    return data
                # Not written over: it may be the store's own.
                file.unlink()
        try:
            data = self.objects.get(str(job.object))
        except NotFound:
            data = b""
        if not _is(data, job):
            state = "damaged" if data else "missing"
            raise ObjectStoreProblem(f"job {job.id}: its picture in {self.objects.shown} is {state} ({job.object})")
        with writing(self.shown):
            file.write_bytes(data)
        return data


def _in_order(
    threads: ThreadPoolExecutor, fetches: Iterable[Callable[[], bytes]], show: Callable[[int], None]
) -> Iterator[bytes]:
    rest, ahead, done = iter(fetches), deque[Future[bytes]](), 0
    while True:
        ahead.extend(threads.submit(one) for one in islice(rest, _AHEAD - len(ahead)))
        if not ahead:
            return
        picture = ahead.popleft().result()
        done += 1
        if done % _SHOWN_EVERY == 0:
            show(done)
        yield picture


def _is(data: bytes, job: JobView) -> bool:
    """Whether these are the bytes that a job's row names."""
    return hashlib.sha256(data).hexdigest() == job.sha256
