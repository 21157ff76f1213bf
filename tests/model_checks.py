"""What `farm models check` might have found."""

from typing import Any

from storage.spec.entry_hash import entry_hash
from storage.spec.model_checks import CheckFinding, ModelCheck
from storage.spec.models import Model


def a_check(model: Model, **found: Any) -> ModelCheck:
    """A check of a model as its entry is, on a CPU, at its own size."""
    return ModelCheck(
        **{
            "entry": entry_hash(model),
            "at": 1_000_000.0,
            "device": "cpu:0",
            "device_name": "cpu x86_64, threads: 1",
            "weights": "0" * 64,
            "dtype": "float32",
            "width": model.width,
            "height": model.height,
            "findings": (CheckFinding(check="seed", held=True, words="the same"),),
            **found,
        }
    )
