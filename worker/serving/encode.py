"""PNG files that carry the recipe of their picture."""

import json
from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from storage.spec.infotext import infotext
from storage.spec.picture import Spec
from worker.serving.png import write_png


def to_png(picture: Image, spec: Spec, recipe: Mapping[str, Any]) -> bytes:
    """Encode a lossless PNG with two text chunks: `diffusion-farm` (JSON) and `parameters` (what galleries read).

    A pure function of its arguments: neither the time nor the job goes in.
    """
    texts = PngInfo()
    texts.add_itxt("diffusion-farm", json.dumps(recipe_of(spec, recipe), sort_keys=True, ensure_ascii=False))
    texts.add_itxt("parameters", infotext(spec, recipe))
    return write_png(picture, [(chunk[0], chunk[1]) for chunk in texts.chunks])


def recipe_of(spec: Spec, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a picture depends on: what was asked for, and what it was made with."""
    return {"spec": spec.fields(), "made_with": dict(recipe)}
