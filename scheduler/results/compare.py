"""Comparing a reproduced picture with the original."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops

from storage.objects.pixels import pixels_sha256_of


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`identical`: the same bytes; otherwise the largest channel difference (0…255), None if the sizes differ.

    Of pixels that are known by their hash alone, `identical` is whether they are the same, and nothing more is known.
    """

    identical: bool
    largest_difference: int | None
    of_hashes: bool = False

    def words(self) -> str:
        if self.identical:
            return "identical to"
        if self.largest_difference == 0:
            return "the same picture, in another file, as"
        if self.largest_difference == 1:
            return "the same within 1/255 as"
        if self.of_hashes:
            return "different from"
        if self.largest_difference is None:
            return "of another size than"
        return f"different (by up to {self.largest_difference}/255) from"

    def fields(self) -> dict[str, Any]:
        return {"identical": self.identical, "largest_difference": self.largest_difference}


#: Said for galleries: `weights` are hashes of the tensors themselves, and older recipes do not have these.
_FOR_GALLERIES = frozenset({"sha256", "vae_sha256", "controlnets", "past_header"})


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return how two recipes differ, such as `torch 2.12.0 → 2.13.0`."""
    before, after = _compared(before), _compared(after)
    return [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _compared(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _compared(value) if isinstance(value, Mapping) else value
        for name, value in recipe.items()
        if name not in _FOR_GALLERIES
    }


def compare(before: bytes, after: bytes) -> Verdict:
    """Compare two PNG files."""
    if before == after:
        return Verdict(identical=True, largest_difference=0)
    with Image.open(io.BytesIO(before)) as one, Image.open(io.BytesIO(after)) as other:
        if one.size != other.size:
            return Verdict(identical=False, largest_difference=None)
        difference = ImageChops.difference(one.convert("RGBA"), other.convert("RGBA")).tobytes()
    return Verdict(identical=False, largest_difference=max(difference))


def compare_with_hash(pixels: str, after: bytes) -> Verdict:
    """Compare pixels that are known by their hash (`storage.objects.pixels`) with a PNG file's."""
    same = pixels_sha256_of(after) == pixels
    return Verdict(identical=same, largest_difference=0 if same else None, of_hashes=True)
