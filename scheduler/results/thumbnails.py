"""Thumbnails: small WebP copies of pictures, made when somebody first looks and kept in the object store.

They lie in their render's folder and go with it, as with their picture alone. Rows do not know them: what is lost is
made again. Nothing of the recipe is in them.
"""

import hashlib
import io
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum

from PIL import Image

from storage.errors import NotFound
from storage.objects.object_keys import thumbnail_key
from storage.objects.pixels import without_alpha
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views

#: Where artefacts begin to be seen at this size.
_QUALITY = 80
#: Of all that were asked for last, in the memory of a process: some thousand of 256 pixels.
_RECENT_BYTES = 16 * 2**20


class Side(IntEnum):
    """The longest side of a thumbnail, in pixels."""

    # Few, so that what is kept of a picture stays small.
    LIST = 64
    TABLE = 128
    GALLERY = 256
    LARGE = 512


class _Recent:
    """The thumbnails that were asked for last; safe for all threads.

    Whoever watches a render asks for those of its new pictures within the same seconds, and each from the store.
    """

    def __init__(self, *, most_bytes: int = _RECENT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: dict[Hashable, bytes] = {}
        self._lock = threading.Lock()

    def get(self, job: JobView, side: Side) -> bytes | None:
        name = _name(job, side)
        with self._lock:
            if (data := self._kept.pop(name, None)) is not None:
                # The last again.
                self._kept[name] = data
        return data

    def keep(self, job: JobView, side: Side, data: bytes) -> None:
        name = _name(job, side)
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(name, b""))
            self._kept[name] = data
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._kept.pop(next(iter(self._kept))))


def _name(job: JobView, side: Side) -> Hashable:
    # Retried, a job may have another picture.
    return job.id, job.sha256, side


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """Finds thumbnails, and makes those that there are not yet. Several processes may do so at the same time.

    Whether somebody may see one, and whether its picture is still there, its row says, which callers have just read.
    """

    views: Views
    objects: ObjectStore
    _recent: _Recent = field(default_factory=_Recent)

    def kept(self, job: JobView, side: Side) -> bytes | None:
        """Return the thumbnail of a finished job if it was made before. Raises ObjectStoreProblem."""
        if (recent := self._recent.get(job, side)) is not None:
            return recent
        try:
            data = self.objects.get(thumbnail_key(job.render_id, job.index, side))
        except NotFound:
            return None
        self._recent.keep(job, side, data)
        return data

    def make(self, job: JobView, side: Side) -> bytes:
        """Return the thumbnail of a finished job, made and kept unless somebody has done so meanwhile.

        Decoding takes as much memory as the picture has pixels, thrice. If this process dies right after it has stored
        the thumbnail of a picture that is being deleted, that stays until the render goes.

        Raises NotFound if the picture is not in the store as it was stored, or is being deleted; ObjectStoreProblem.
        """
        # By somebody else of this process meanwhile. Of another process, the store was asked a moment ago:
        # whoever makes it twice stores the same.
        if (before := self._recent.get(job, side)) is not None:
            return before
        key = thumbnail_key(job.render_id, job.index, side)
        made = shrunk(picture_of(self.objects, job), side)
        self.objects.put(key, made)
        try:
            # A deletion hides the row first, and then deletes what there is: one of us sees the other.
            self.views.job(job.id)
        except NotFound:
            self.objects.delete(key)
            raise
        self._recent.keep(job, side, made)
        return made


def picture_of(objects: ObjectStore, job: JobView) -> bytes:
    """Return the file of a finished job. Raises NotFound if it is gone or damaged, ObjectStoreProblem."""
    try:
        data = objects.get(str(job.object))
    except NotFound:
        # Not in the store's words, which name its address.
        raise NotFound(f"job {job.id}: its picture is gone from the object store") from None
    if hashlib.sha256(data).hexdigest() != job.sha256:
        raise NotFound(f"job {job.id}: its picture in the object store is damaged")
    return data


def shrunk(picture: bytes, side: int) -> bytes:
    """Return a picture as WebP, its longest side at most so many pixels; never enlarged.

    One of up to half that side, which is shown larger than it is, keeps every pixel as it is.
    """
    with Image.open(io.BytesIO(picture)) as file:
        small = without_alpha(file)
    lossless = max(small.size) <= side // 2
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=_QUALITY, lossless=lossless)
    return data.getvalue()
