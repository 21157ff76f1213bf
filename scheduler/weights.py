"""Whether a model's weights are on this machine, told without the libraries that load them."""

import os
from pathlib import Path

from storage.models import DiffusersModel, Model, Weights


def missing(model: Model) -> list[str]:
    """The sources of a model and its ControlNets that would have to be fetched first."""
    if not isinstance(model, DiffusersModel):
        return []
    return [weights.source for weights in (model, *model.controlnets) if not _is_here(weights)]


def _is_here(weights: Weights) -> bool:
    if weights.source.startswith("shipped:") or Path(weights.source).exists():
        return True
    kept = _hub_cache() / f"models--{weights.source.replace('/', '--')}" / "snapshots"
    return any(kept.glob("*/*.json"))


def _hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched, as its documentation says."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
