"""The safety checker of Stable Diffusion 1.x, asked for its verdict only: it would hand back black squares itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


class SafetyChecker:
    """A pipeline's own checker, taken out of it."""

    def __init__(self, pipeline: Any) -> None:
        """Raises ValueError if the pipeline came without one."""
        self._checker, self._extractor = pipeline.safety_checker, pipeline.feature_extractor
        if self._checker is None or self._extractor is None:
            raise ValueError("safety_checker = true, but the model comes without one")
        pipeline.register_modules(safety_checker=None)

    def flags(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Which pictures it takes for not safe for work."""
        parameter = next(self._checker.parameters())
        features = self._extractor(list(pictures), return_tensors="pt").pixel_values
        # It blackens what it flags: not the pictures but these arrays.
        copies = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
        with torch.inference_mode():
            _, flagged = self._checker(images=copies, clip_input=features.to(parameter.device, parameter.dtype))
        return [bool(flag) for flag in flagged]
