"""Prompts in the web UI's language, as fields: LoRAs by their alias, and words with weights."""

import json
from collections.abc import Mapping

from storage.errors import BadSpecification
from storage.spec import webui_prompts
from storage.spec.aliases import alias_in

_PROMPTS = ("prompt", "negative_prompt")


def read(cells: Mapping[str, str], *, weights: bool = True) -> dict[str, str]:
    """Return the cells of a row whose prompts are in the web UI's language.

    Raises BadSpecification for what the farm does not have.

    Args:
        weights: read weights; otherwise brackets are letters.
    """
    found = dict(cells)
    try:
        found["prompt"], scales = webui_prompts.take_loras(cells.get("prompt", ""))
        if scales:
            # Files there have capitals and spaces; aliases have none.
            loras = {alias_in(name): scale for name, scale in scales.items()}
            if len(loras) < len(scales):
                raise ValueError("a LoRA is named twice; give it one weight")
            found["loras"] = json.dumps(loras)
        texts = [found[name] for name in _PROMPTS if found.get(name)]
        if weights and not all(map(webui_prompts.is_plain, texts)):
            for name in _PROMPTS:
                webui_prompts.check(found.get(name, ""), negative=name == "negative_prompt")
            found["prompt_weighting"] = "webui"
    except ValueError as error:
        raise BadSpecification(f"prompt: {error}") from None
    return found
