"""Comparing a reproduced picture with the original."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`identical`: the same bytes; otherwise the largest channel difference (0…255), None if the sizes differ."""

    identical: bool
    largest_difference: int | None

    def words(self) -> str:
        if self.identical:
            return "identical to"
        if self.largest_difference == 0:
            return "the same picture, in another file, as"
        if self.largest_difference == 1:
            return "the same within 1/255 as"
        if self.largest_difference is None:
            return "of another size than"
        return f"different (by up to {self.largest_difference}/255) from"

    def fields(self) -> dict[str, Any]:
        return {"identical": self.identical, "largest_difference": self.largest_difference}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return how two recipes differ, such as `torch 2.12.0 → 2.13.0`."""
    return [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def compare(before: bytes, after: bytes) -> Verdict:
    """Compare two PNG files."""
    if before == after:
        return Verdict(identical=True, largest_difference=0)
    with Image.open(io.BytesIO(before)) as one, Image.open(io.BytesIO(after)) as other:
        if one.size != other.size:
            return Verdict(identical=False, largest_difference=None)
        difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).tobytes()
    return Verdict(identical=False, largest_difference=max(difference))
