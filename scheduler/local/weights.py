"""Whether weights are on this machine, found out without the libraries that load them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from storage.spec.model_files import configs_of, is_there, local_folder, named_folder
from storage.spec.models import DiffusersModel, Model, Weights

#: In the card of a decoder, the repository of its prior.
_PRIOR = re.compile(r"^prior:\s*-\s*(\S+)", re.MULTILINE)


def missing(model: Model) -> list[str]:
    """Return the sources (model, prior, ControlNets) whose weights are missing here, wholly or in part."""
    if not isinstance(model, DiffusersModel):
        return []
    unread = [config.source for config in configs_of(model) if not is_there(local_folder(config) / "model_index.json")]
    return unread + [weights.source for weights in _needed(model) if not _is_here(weights)]


def _needed(model: DiffusersModel) -> Iterator[Weights]:
    yield model
    # The card of a decoder names its prior; while it is not here, neither is the decoder.
    card = local_folder(model) / "README.md"
    if is_there(card) and (named := _PRIOR.search(card.read_text(encoding="utf-8", errors="replace"))):
        yield Weights(source=named[1], variant=model.variant)
    yield from model.parts[1:]


def _is_here(weights: Weights) -> bool:
    if (named := named_folder(weights)) is not None:
        return is_there(named)
    folder = local_folder(weights)
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = [folder / name for name, part in index.items() if isinstance(part, list) and part and part[0]]
    except (OSError, ValueError, AttributeError):
        return is_there(folder / "config.json") and _has_weights(folder)  # a ControlNet, a VAE
    return all(part.is_dir() or part.name == "safety_checker" for part in parts) and all(map(_has_weights, parts))


def _has_weights(part: Path) -> bool:
    """Return whether a pipeline component has its weights; tokenizers and samplers need none (no `config.json`)."""
    if not (part / "config.json").exists():
        return True
    try:
        shards = {
            str(shard)
            for index in part.glob("*.safetensors.index*.json")
            for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        # Cut short, perhaps: fetched again, it is whole.
        return False
    return all((part / shard).exists() for shard in shards) and any(part.glob("*.safetensors"))
