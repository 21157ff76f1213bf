"""From rendered pictures to jobs done, while the device renders the next batch: encode → upload → complete."""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from PIL.Image import Image

from storage.errors import NotFound
from storage.jobs.values import ClaimedJob, Published, RenderedBatch
from storage.objects.object_keys import Stored, picture_key
from storage.objects.pixels import pixels_sha256, pixels_sha256_of
from storage.rules.states import State
from worker.serving.encode import to_png
from worker.serving.leases import Leases
from worker.serving.services import PictureStore, WorkerJobs

log = logging.getLogger(__name__)

#: Batches that may be in flight at once, and more as long as their pictures are so few: those that leave slots one by
#: one. Then the device waits, so that memory stays bounded while a store is away.
_BATCHES_IN_FLIGHT = 2
_PICTURES_IN_FLIGHT = 16
#: Each waits for a picture's thread, and for the database.
_BATCH_THREADS = 8
#: Encoding releases the interpreter's lock inside zlib; uploading waits for the network.
_PICTURE_THREADS = 4


class Publisher:
    """Publishes batches in the background, a bounded number at a time."""

    def __init__(self, *, jobs: WorkerJobs, objects: PictureStore, leases: Leases) -> None:
        self._jobs = jobs
        self._objects = objects
        self._leases = leases
        self._room = threading.Condition()
        #: Pictures of each batch that is in flight.
        self._in_flight: list[int] = []
        self._batches = ThreadPoolExecutor(_BATCH_THREADS, thread_name_prefix="publish")
        self._pictures = ThreadPoolExecutor(_PICTURE_THREADS, thread_name_prefix="picture")
        self._pending: list[Future[None]] = []

    def publish(self, batch: RenderedBatch, jobs: Sequence[ClaimedJob], pictures: Sequence[Image]) -> None:
        """Take over a batch's pictures; block while too many are in flight. Raise what an earlier batch failed with."""
        self._leases.rendered(jobs)
        with self._room:
            self._room.wait_for(lambda: self._has_room(len(jobs)))
            self._in_flight.append(len(jobs))
        self._pending.append(self._batches.submit(self._publish, batch, jobs, pictures, time.monotonic()))
        self._reap(wait=False)

    def drain(self) -> None:
        """Wait until nothing is in flight. Raise what a batch failed with."""
        self._reap(wait=True)

    def _has_room(self, pictures: int) -> bool:
        batches = len(self._in_flight)
        return batches < _BATCHES_IN_FLIGHT or sum(self._in_flight) + pictures <= _PICTURES_IN_FLIGHT

    def _reap(self, *, wait: bool) -> None:
        ended = [future for future in self._pending if wait or future.done()]
        self._pending = [future for future in self._pending if future not in ended]
        for future in ended:
            future.result()

    def _publish(
        self, batch: RenderedBatch, jobs: Sequence[ClaimedJob], pictures: Sequence[Image], rendered_at: float
    ) -> None:
        try:
            drawn = zip(range(len(jobs)), jobs, pictures, strict=True)
            published = [one for one in self._pictures.map(lambda one: self._store(batch, *one), drawn) if one]
            stored = replace(batch, store_seconds=time.monotonic() - rendered_at)
            refused = self._jobs.complete(stored, published) if published else {}
            for picture in published:
                if refused.get(picture.job.id, State.DONE) is None:
                    self._remove(picture)
            taken = len(published) - len(refused)
            log.info("published", extra={"batch": batch.id, "pictures": taken, "refused": len(jobs) - taken})
        finally:
            self._leases.drop(jobs)
            with self._room:
                self._in_flight.remove(len(jobs))
                self._room.notify()

    def _remove(self, picture: Published) -> None:
        """Remove a picture whose render was deleted while it was stored: nobody else will ever look for it."""
        self._objects.delete(picture.object)

    def _store(self, batch: RenderedBatch, position: int, job: ClaimedJob, picture: Image) -> Published | None:
        """Store a picture; None if its job is no longer ours."""
        remarks, own = batch.remarks.get(job.id, ()), batch.own_recipes.get(job.id, {})
        # Of what went through slots, its calls say it all, and neighbours do not matter.
        mates = {} if own else {"batch": {"size": len(batch.jobs), "position": position}}
        data = to_png(picture, job.spec, {**batch.recipe, **own, **mates, **({"remarks": remarks} if remarks else {})})
        key = picture_key(job.render_id, job.index)
        if (put := self._put(job, key, data)) is None:
            return None
        stored, other = put
        return Published(
            job=job,
            object=key,
            sha256=stored.sha256,
            bytes=stored.bytes,
            pixels_sha256=pixels_sha256(picture) if other is None else pixels_sha256_of(other),
            remarks=remarks,
            own_recipe=own,
        )

    def _put(self, job: ClaimedJob, key: str, data: bytes) -> tuple[Stored, bytes | None] | None:
        """Store a picture; return what is stored and, if an earlier attempt was first, its file, which is kept."""
        own = hashlib.sha256(data).hexdigest()
        while True:
            stored = self._objects.put(key, data, wanted=lambda: self._leases.still_ours(job))
            if stored is None:
                return None
            if stored.sha256 == own:
                return stored, None
            try:
                other = self._objects.get(key)
            except NotFound:
                continue  # removed meanwhile, as an orphan: the place is free
            if hashlib.sha256(other).hexdigest() == stored.sha256:
                return stored, other
