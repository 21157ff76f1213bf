"""PNG files that carry the recipe of their picture."""

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from storage.spec.infotext import infotext
from storage.spec.picture import Spec

#: zlib's Z_RLE: for noisy pictures several times as fast as the default strategy, and no larger.
_RLE = 3


def to_png(picture: Image, spec: Spec, recipe: Mapping[str, Any]) -> bytes:
    """Encode a lossless PNG with two text chunks: `diffusion-farm` (JSON) and `parameters` (what galleries read).

    A pure function of its arguments: neither the time nor the job goes in.
    """
    texts = PngInfo()
    texts.add_itxt("diffusion-farm", json.dumps(recipe_of(spec, recipe), sort_keys=True, ensure_ascii=False))
    texts.add_itxt("parameters", infotext(spec, recipe))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts, compress_level=1, compress_type=_RLE)
    return buffer.getvalue()


def recipe_of(spec: Spec, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a picture depends on: what was asked for, and what it was made with."""
    return {"spec": spec.fields(), "made_with": dict(recipe)}
