"""LoRAs of other pipelines than Stable Diffusion's and SDXL's: what a file holds is applied, or refused by name."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from storage.errors import RenderFailed
from storage.spec.models import Lora
from tests.pipelines.tried import Tried

pytestmark = pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts

#: Architectures whose pipelines take LoRAs, one for each loader.
TAKING = (
    *("sd3", "flux-dev", "flux2-klein", "chroma", "qwen-image", "z-image", "auraflow", "sana", "lumina2"),
    *("cogview4", "krea2", "kandinsky3", "lcm"),
)


class Drawing(Tried):
    """An architecture with LoRAs, which can change its own weights as well."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.file = folder / "lora.safetensors"
        self.name = name
        self._written = 0
        self.plain = self.with_lora(None)
        self.pipeline = self._model.pipeline
        self.part = "unet" if hasattr(self.pipeline, "unet") else "transformer"
        self.modules: dict[str, Any] = {
            name: module
            for name, module in getattr(self.pipeline, self.part).named_modules()
            if isinstance(module, torch.nn.Linear) and name.endswith((".to_q", ".to_v", ".to_k", ".to_out.0"))
        }

    def with_lora(self, scale: float | None) -> Any:
        """Draw with the file as it is now."""
        spec = self.spec()
        self._drawn.clear()
        if scale is None:
            return self.drawn(spec)
        alias = f"one{self._written}"
        self._model.adapters._known = {alias: Lora(alias=alias, source=str(self.file))}
        made = self.drawn(spec.model_copy(update={"loras": {alias: scale}}))
        # Galleries know it by what follows its header.
        file = self.file.read_bytes()
        said = hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).hexdigest()
        assert self._model.adapters.recipe({alias: scale})[alias]["past_header"] == said
        return made

    def merged(self, scale: float) -> Any:
        """Draw with the file multiplied into the weights."""
        tensors = safetensors.torch.load_file(self.file)
        before = {}
        for name, module in self.modules.items():
            module = getattr(module, "base_layer", module)
            before[name] = module.weight.data.clone()
            down, up = (tensors[f"{self.part}.{name}.lora_{side}.weight"] for side in "AB")
            alpha = float(tensors.get(f"{self.part}.{name}.alpha", len(down)))
            module.weight.data += scale * alpha / len(down) * up.float() @ down.float()
        try:
            return self.with_lora(None)
        finally:
            for name, module in self.modules.items():
                getattr(module, "base_layer", module).weight.data = before[name]

    def tensors(self, *, dtype: torch.dtype = torch.float32, alphas: bool = False) -> dict[str, torch.Tensor]:
        generator, found = torch.Generator().manual_seed(3), {}
        # Much larger, and rounding alone would change the picture.
        size = 1.0 if self.name == "auraflow" else 0.3
        for number, (name, module) in enumerate(self.modules.items()):
            rank, base = 2 + number % 3, f"{self.part}.{name}"
            found[f"{base}.lora_A.weight"] = (
                torch.randn(rank, module.in_features, generator=generator).mul(size).to(dtype)
            )
            found[f"{base}.lora_B.weight"] = (
                torch.randn(module.out_features, rank, generator=generator).mul(size).to(dtype)
            )
            if alphas:
                found[f"{base}.alpha"] = torch.tensor(float(1 + number % 4))
        return found

    def write(self, tensors: dict[str, torch.Tensor]) -> None:
        self._written += 1
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.file)


@pytest.fixture(scope="module", params=TAKING)
def drawing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drawing:
    return Drawing(request.param, tmp_path_factory.mktemp(request.param))


def difference(one: Any, other: Any) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("options", [{}, {"alphas": True}, {"dtype": torch.bfloat16, "alphas": True}], ids=str)
def test_what_a_file_holds_is_applied_in_every_architecture(drawing: Drawing, options: dict[str, Any]) -> None:
    drawing.write(drawing.tensors(**options))
    changed = drawing.with_lora(0.7)
    assert difference(changed, drawing.plain) > 0.05
    assert difference(changed, drawing.merged(0.7)) < 0.1 * difference(changed, drawing.plain)
    assert (drawing.with_lora(None) == drawing.plain).all()


def _renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors.update({name.replace(old, new): tensors.pop(name) for name in list(tensors) if name.startswith(old)})


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors)).removesuffix(".lora_A.weight")


REFUSED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "a module of another model": (
        lambda file: _renamed(file, _first(file), f"{next(iter(file)).split('.')[0]}.nothing.to_q"),
        r"nothing\.to_q",
    ),
    "another width": (lambda file: file.update({f"{_first(file)}.lora_A.weight": torch.zeros(2, 99)}), "99 numbers"),
    "something beside": (lambda file: file.update({"a_style.vector": torch.zeros(2)}), "a_style.vector|Diffusers|lora"),
    "another component": (
        lambda file: file.update({"text_encoder_9.layer.to_q.lora_A.weight": torch.zeros(2, 4)}),
        "text_encoder_9",
    ),
    "no second matrix": (lambda file: file.pop(f"{_first(file)}.lora_B.weight"), "matri|lora_B|lora_A"),
    "an alpha of nothing": (lambda file: file.update({"x.alpha": torch.tensor(1.0)}), "x.alpha"),
    "a LoHa": (lambda file: file.update({f"{_first(file)}.hada_w1_a": torch.zeros(2, 2)}), "hada_w1_[ab]"),
    "whole weights": (lambda file: file.update({f"{_first(file)}.diff": torch.zeros(2, 2)}), ".diff"),
    "a magnitude": (
        lambda file: file.update({f"{_first(file)}.dora_scale": torch.ones(3, 1)}),
        "magnitudes|dora_scale",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_applied_is_refused_in_every_architecture(drawing: Drawing, kind: str) -> None:
    change, reason = REFUSED[kind]
    tensors = drawing.tensors()
    change(tensors)
    drawing.write(tensors)
    before = [name for name, _ in getattr(drawing.pipeline, drawing.part).named_modules()]
    with pytest.raises(RenderFailed, match=f"loras: one.* cannot be loaded: .*(?:{reason})"):
        drawing.with_lora(1.0)
    assert [name for name, _ in getattr(drawing.pipeline, drawing.part).named_modules()] == before


@pytest.mark.parametrize("drawing", ["z-image"], indirect=True)
def test_a_file_that_is_another_now_is_read_again(drawing: Drawing) -> None:
    tensors = drawing.tensors()
    drawing.write(tensors)
    before = drawing.with_lora(0.7)
    other = {name: tensor.flip(0) for name, tensor in tensors.items()}
    safetensors.torch.save_file(other, drawing.file)
    after = drawing.with_lora(0.7)
    assert difference(after, before) > 0.05
    assert difference(after, drawing.merged(0.7)) < 0.1 * difference(after, drawing.plain)
