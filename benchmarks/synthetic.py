"""Pictures that compress as those of large models do: light and dark, texture, and grain."""

import numpy as np
from PIL import Image

#: Standard deviations of brightness, of 255. With such grain 1024 × 1024 pixels take 1.5 MB as a PNG, as those of SDXL
#: do.
_TEXTURE, _GRAIN = 25.0, 2.0
_TEXTURE_PIXELS = 16


def photograph(size: int, seed: int = 0) -> Image.Image:
    """Return a square picture of gradients, soft texture and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    light = [128 + 100 * np.sin(6 * x + 2 * y), 128 + 90 * np.cos(5 * y - x), 128 + 80 * np.sin(9 * x * y + 1)]
    coarse = rng.normal(0, _TEXTURE, (3, size // _TEXTURE_PIXELS, size // _TEXTURE_PIXELS)).astype(np.float32)
    soft = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in coarse]
    values = np.stack(light, -1) + np.stack([np.asarray(one) for one in soft], -1)
    values += rng.normal(0, _GRAIN, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
