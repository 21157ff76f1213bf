"""The modules of a pipeline as they were before a library changed them."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch


class ModuleState:
    """What modules consist of: parameters, submodules, hooks and plain attributes, but not the values of tensors.

    Libraries put LoRAs into a module tree layer by layer. If that fails half-way, what is there must go again, whatever
    the library has got round to: one layer that is left over shows in every later picture.
    """

    def __init__(self, roots: Iterable[torch.nn.Module]) -> None:
        self._kept = [(module, _copied(vars(module))) for root in roots for module in root.modules()]

    def restore(self) -> None:
        """Make the modules what they were."""
        for module, kept in self._kept:
            vars(module).clear()
            vars(module).update(kept)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copy attributes and the containers among them: submodules and scales of adapters are entries of those."""
    # Of exactly these types: Diffusers' configurations are dictionaries that lose their attributes when copied.
    containers = (dict, OrderedDict, list, set)
    return {name: value.copy() if type(value) in containers else value for name, value in attributes.items()}
