"""Checks of finished pictures: duplicates, and nearly black ones."""

import hashlib
from dataclasses import dataclass, field

from PIL import Image, ImageStat

from storage.objects.pixels import pixels_sha256
from storage.spec.picture import Spec

#: Of 255: the mean brightness below which hardly anything can be seen.
DARK = 8.0


@dataclass
class PictureChecks:
    """Checks pictures one by one and keeps a hash of each."""

    pictures: int = 0
    duplicates: int = 0
    dark: int = 0
    _seen: dict[str, str] = field(default_factory=dict)

    def look(self, name: str, spec: Spec, picture: Image.Image) -> list[str]:
        """Check a picture and return what is remarkable about it."""
        found = []
        self.pictures += 1
        # Of the pixels: the files differ in what they say about how the picture was made. And of what was asked: made
        # in another batch, the same picture may differ in its last bit.
        looks = pixels_sha256(picture)
        asked = hashlib.sha256(spec.canonical().encode()).hexdigest()
        first = min(self._seen.setdefault(looks, name), self._seen.setdefault(asked, name))
        if first != name:
            self.duplicates += 1
            found.append(f"same as {first}")
        if ImageStat.Stat(picture.convert("L")).mean[0] < DARK:
            self.dark += 1
            found.append("nearly black")
        return found

    def words(self) -> str:
        """Return `3 duplicates, 1 nearly black`, or an empty string if nothing was found."""
        counts = ((self.duplicates, "duplicate" if self.duplicates == 1 else "duplicates"), (self.dark, "nearly black"))
        return ", ".join(f"{n} {what}" for n, what in counts if n)
