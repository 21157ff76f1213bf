"""How strongly PEFT's own files say that their matrices are applied: in their header, or in a file beside them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.rendering.lora_files import written_config

#: What PEFT writes beside the weights; there is no other place for it in files of its `save_pretrained`.
_BESIDE = "adapter_config.json"
#: What is not in a file's tensors and changes what they do, and the value at which it does not.
_UNKNOWN = {"use_qalora": False, "alora_invocation_tokens": None, "layer_replication": None, "fan_in_fan_out": False}


@dataclass(frozen=True)
class Scaling:
    """PEFT's configuration of an adapter, by `<component>.<option>` or `<option>`; empty: matrices are as they are."""

    said: Mapping[str, Any]

    def factor(self, component: str, path: str, parts: Mapping[str, torch.Tensor]) -> float:
        """Return what a layer's matrices are multiplied by: alpha ÷ rank, or ÷ its root (arXiv:2312.03732)."""
        second = next((name for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts), None)
        # A LoKr of two whole matrices has a rank by name only.
        rank = self._option(component, "r") if second is None else len(parts[second])
        alpha = self._option(component, "lora_alpha", self._option(component, "alpha"))
        patterns = self._option(component, "alpha_pattern") or {}
        matching = [key for key in patterns if re.match(rf"(.*\.)?({key})$", path)]
        if matching:
            alpha = patterns[matching[0]]
        if alpha is None or rank is None:
            return 1.0
        return float(alpha) / (rank**0.5 if self._option(component, "use_rslora") else rank)

    def _option(self, component: str, name: str, default: Any = None) -> Any:
        return self.said.get(f"{component}.{name}", self.said.get(name, default))


def written_scaling(file: Path) -> Scaling:
    """Read what a file and its folder say. Raises ValueError for what cannot be done."""
    beside = file.with_name(_BESIDE)
    said = written_config(file)
    if not said and file.name == "adapter_model.safetensors" and beside.is_file():
        said = json.loads(beside.read_text())
        wrong = [name for name, usual in _UNKNOWN.items() if said.get(name, usual) not in (usual, None)]
        if said.get("bias", "none") != "none" or said.get("modules_to_save"):
            wrong.append("bias" if said.get("bias", "none") != "none" else "modules_to_save")
        if wrong:
            raise ValueError(f"{_BESIDE} says {', '.join(wrong)}, which is not applied here")
    return Scaling(said)
