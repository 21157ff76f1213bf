"""Signed URLs of single pictures, valid for an hour without a key: for protocols that answer with URLs."""

import base64
import hashlib
import hmac
import time
from typing import Literal
from urllib.parse import urlencode

from storage.access.signing import SigningSecrets
from storage.objects.store import ObjectStore
from storage.renders.views import JobView

_SECONDS = 3600
Format = Literal["png", "jpeg", "webp"]


class SignedUrls:
    """Make and check signed URLs; a store that presigns its own URLs gives those."""

    def __init__(self, secrets: SigningSecrets, objects: ObjectStore) -> None:
        self._secrets = secrets
        self._objects = objects

    def make(self, job: JobView, base_url: str, *, form: Format = "png", quality: int = 95) -> str:
        """Return a signed URL of a picture, in this format.

        Args:
            base_url: how the caller reaches this API.
        """
        address = self._objects.presign(str(job.object), seconds=_SECONDS)
        if form == "png" and address.startswith("http"):
            return address
        until = int(time.time()) + _SECONDS
        said: dict[str, str | int] = {"until": until, "signature": self._signature(job.id, until)}
        if form != "png":
            said |= {"format": form, "quality": quality}
        return f"{base_url.rstrip('/')}/v1/pictures/{job.id}?{urlencode(said)}"

    def opens(self, job_id: str, until: int, signature: str) -> bool:
        """Return whether a signed URL is valid; its format is not signed, as it is the same picture in any."""
        # As bytes: compare_digest takes only ASCII text.
        right = hmac.compare_digest(self._signature(job_id, until).encode(), signature.encode())
        return right and time.time() <= until

    def _signature(self, job_id: str, until: int) -> str:
        key = base64.b64decode(self._secrets.get("pictures"))
        digest = hmac.digest(key, f"{job_id}.{until}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
