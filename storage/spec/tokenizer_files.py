"""How many tokens a model's tokenizer says that it takes, where a pipeline goes by that."""

import json
from functools import lru_cache

from storage.spec.model_files import configuration_folder, remembered
from storage.spec.models import Weights

#: Transformers writes 10^30 for tokenizers that have no limit.
NO_LIMIT = 1_000_000


def tokenizer_room(model: Weights) -> int | None:
    """Return the limit that a model's only tokenizer names, marks of beginning and end among them; None: none here."""
    return _room(model.source, model.revision, model.config, remembered())


@lru_cache(maxsize=64)
def _room(source: str, revision: str | None, config: str | None, _when: int) -> int | None:
    try:
        folder = configuration_folder(Weights(source=source, revision=revision, config=config))
        said = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
        room = int(said["model_max_length"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return room if 0 < room < NO_LIMIT else None
