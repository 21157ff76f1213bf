"""LoRA files as kohya's trainer and LyCORIS write them, and what they must do, worked out on the weights themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

#: What the trainer changes by default: attention and feed-forward layers, of the text encoders too.
UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is in a file: which kinds of modules, and their alphas and ranks, which take turns."""

    unet: Sequence[str] = UNET
    text: Sequence[str] = TEXT
    alphas: Sequence[float] = (2.0,)
    ranks: Sequence[int] = (4,)
    #: As of a DoRA.
    magnitudes: bool = False


def write(file: Path, pipeline: Any, kind: Kind = Kind(), *, seed: int = 0) -> Path:
    """Write random matrices."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (key, module) in enumerate(_modules(pipeline, kind.unet, kind.text)):
        rank, (outputs, inputs, *kernel) = kind.ranks[number % len(kind.ranks)], module.weight.shape
        ones = (1,) * len(kernel)
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, *kernel, generator=generator) * 0.5
        tensors[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, *ones, generator=generator) * 0.5
        if kind.alphas:
            tensors[f"{key}.alpha"] = torch.tensor(kind.alphas[number % len(kind.alphas)])
        if kind.magnitudes:
            tensors[f"{key}.dora_scale"] = torch.rand(outputs, 1, *ones, generator=generator) + 0.5
    safetensors.torch.save_file(tensors, file)
    return file


def merge(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Change a pipeline's own weights as the file says: W + scale · alpha / rank · up · down, and a DoRA's lengths."""
    tensors = safetensors.torch.load_file(file)
    for key, module in _modules(pipeline, UNET, TEXT):
        if f"{key}.lora_down.weight" not in tensors:
            continue
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        alpha = float(tensors.get(f"{key}.alpha", len(down)))
        weight = module.weight.data.flatten(1)
        changed = weight + scale * alpha / len(down) * up.flatten(1) @ down.flatten(1)
        if f"{key}.dora_scale" in tensors:
            changed = changed / changed.norm(dim=1, keepdim=True) * tensors[f"{key}.dora_scale"].flatten(1)
        module.weight.data = changed.reshape(module.weight.shape)


def _modules(pipeline: Any, unet: Sequence[str], text: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the modules whose name ends so, by kohya's key: the path with underscores, after the component's prefix."""
    two = hasattr(pipeline, "text_encoder_2")
    parts = [("lora_unet", pipeline.unet, unet), ("lora_te1" if two else "lora_te", pipeline.text_encoder, text)]
    parts += [("lora_te2", pipeline.text_encoder_2, text)] if two else []
    for prefix, component, wanted in parts:
        for name, module in component.named_modules():
            if wanted and name.endswith(tuple(f".{kind}" for kind in wanted)):
                # The trainer's names are those of Transformers 4, whose text encoders were wrapped.
                path = name if prefix == "lora_unet" or name.startswith("text_model.") else f"text_model.{name}"
                yield f"{prefix}_{path.replace('.', '_')}", module
