"""The safety checker of Stable Diffusion 1.x, asked only for its verdict: by itself it would return black squares."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from storage.errors import RenderFailed
from storage.rules.faults import Fault


class SafetyChecker:
    """A pipeline's own safety checker, taken out of it."""

    def __init__(self, pipeline: Any) -> None:
        """Take it out of the pipeline. Raises ValueError if the pipeline comes without one."""
        self._checker, self._extractor = pipeline.safety_checker, pipeline.feature_extractor
        if self._checker is None or self._extractor is None:
            raise ValueError("safety_checker = true, but the model has no safety checker")
        pipeline.register_modules(safety_checker=None)

    def flags(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Return for each picture whether it counts as not safe for work."""
        parameter = next(self._checker.parameters())
        features = self._extractor(list(pictures), return_tensors="pt").pixel_values
        # The checker blackens what it flags: these arrays, not the pictures.
        copies = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
        with torch.inference_mode():
            _, flagged = self._checker(images=copies, clip_input=features.to(parameter.device, parameter.dtype))
        return [bool(flag) for flag in flagged]

    def passed(self, pictures: Sequence[Image.Image]) -> dict[str, str]:
        """Return what the recipe says of pictures that pass. Raises RenderFailed if one does not."""
        if any(self.flags(pictures)):
            raise RenderFailed("the model's safety checker flags this picture as not safe for work", Fault.BAD_PICTURE)
        return {"safety_checker": "passed"}
