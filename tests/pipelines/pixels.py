"""Pictures as numbers, to compare."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from storage.spec.picture import Spec
from worker.rendering.backend import LoadedModel


def pixels(model: LoadedModel, wanted: Sequence[Spec]) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """What one call of the model makes: (batch, height, width, 3), 0…255."""
    pictures = model.render(wanted, lambda: None).pictures
    return np.stack([np.asarray(picture) for picture in pictures]).astype(np.int16)


def largest_difference(one: Any, other: Any) -> int:
    return int(np.abs(one - other).max())
