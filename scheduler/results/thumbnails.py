"""Thumbnails: small WebP copies of pictures, made when somebody first looks and kept in the object store.

They lie in their render's folder and go with it, as with their picture alone. Rows do not know them: what is lost is
made again. Nothing of the recipe is in them.
"""

import hashlib
import io
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image

from storage.errors import NotFound
from storage.objects.object_keys import thumbnail_key
from storage.objects.store import ObjectStore
from storage.renders.views import JobView, Views

#: Where artefacts begin to be seen at this size.
_QUALITY = 80


class Side(IntEnum):
    """The longest side of a thumbnail, in pixels."""

    # Few, so that what is kept of a picture stays small.
    LIST = 64
    TABLE = 128
    GALLERY = 256
    LARGE = 512


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """Finds thumbnails, and makes those that there are not yet. Several processes may do so at the same time."""

    views: Views
    objects: ObjectStore

    def kept(self, job: JobView, side: Side) -> bytes | None:
        """Return the thumbnail of a finished job if it was made before. Raises ObjectStoreProblem."""
        try:
            return self.objects.get(thumbnail_key(job.render_id, job.index, side))
        except NotFound:
            return None

    def make(self, job: JobView, side: Side) -> bytes:
        """Return the thumbnail of a finished job, made and kept unless somebody has done so meanwhile.

        Decoding takes as much memory as the picture has pixels, thrice. If this process dies right after it has stored
        the thumbnail of a picture that is being deleted, that stays until the render goes.

        Raises NotFound if the picture is not in the store as it was stored, or is being deleted; ObjectStoreProblem.
        """
        if (before := self.kept(job, side)) is not None:
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
        small = file.convert("RGB")
    lossless = max(small.size) <= side // 2
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=_QUALITY, lossless=lossless)
    return data.getvalue()
