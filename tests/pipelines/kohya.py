"""LoRA files as kohya's trainer and LyCORIS write them, and what they must do, worked out on the weights themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft.tuners.loha.layer import make_weight
from peft.tuners.lokr.layer import make_kron, make_weight_cp

#: What the trainer changes by default: attention and feed-forward layers, of the text encoders too.
UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
#: What LyCORIS changes besides: a LoCon.
CONVS = (*UNET, "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
OUTSIDE = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is in a file: which kinds of modules, and their alphas and ranks, which take turns."""

    unet: Sequence[str] = UNET
    text: Sequence[str] = TEXT
    alphas: Sequence[float] = (2.0,)
    ranks: Sequence[int] = (4,)
    #: As of a DoRA.
    magnitudes: bool = False
    #: `tucker`: kernels of convolutions by themselves; `lokr-whole`: without any smaller matrices.
    method: str = "lora"


def write(file: Path, pipeline: Any, kind: Kind = Kind(), *, seed: int = 0) -> Path:
    """Write random matrices."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (key, module) in enumerate(_modules(pipeline, kind.unet, kind.text)):
        rank, (outputs, *_) = kind.ranks[number % len(kind.ranks)], module.weight.shape
        ones = (1,) * (module.weight.dim() - 2)
        parts = _matrices(kind.method, rank, tuple(module.weight.shape))
        for name, (size, *shape) in parts.items():
            drawn = torch.randn(size, *shape, generator=generator)
            tensors[f"{key}.{name}"] = drawn * (0.5 if kind.method == "lora" else 0.35)
        if kind.alphas:
            tensors[f"{key}.alpha"] = torch.tensor(kind.alphas[number % len(kind.alphas)])
        if kind.magnitudes:
            tensors[f"{key}.dora_scale"] = torch.rand(outputs, 1, *ones, generator=generator) + 0.5
    safetensors.torch.save_file(tensors, file)
    return file


def _matrices(method: str, rank: int, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a method writes for a layer, by the endings of the names."""
    outputs, inputs, *kernel = shape
    ones, wide = (1,) * len(kernel), inputs * int(torch.Size(kernel).numel())
    if method == "loha":
        return {
            f"hada_w{n}_{side}": size for n in (1, 2) for side, size in (("a", (outputs, rank)), ("b", (rank, wide)))
        }
    if method.startswith("lokr"):
        two = (outputs // 2, inputs // 2)
        if method == "lokr-whole":
            return {"lokr_w1": (2, 2), "lokr_w2": (*two, *kernel)}
        if kernel and kernel[0] > 1:
            parts = {"lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, two[0])}
        else:
            parts = {"lokr_w2_a": (two[0], rank)}
        return {"lokr_w1": (2, 2), "lokr_w2_b": (rank, two[1]), **parts}
    if method == "tucker" and kernel and kernel[0] > 1:
        down = {"lora_down.weight": (rank, inputs, *ones), "lora_mid.weight": (rank, rank, *kernel)}
        return down | {"lora_up.weight": (outputs, rank, *ones)}
    return {"lora_down.weight": (rank, inputs, *kernel), "lora_up.weight": (outputs, rank, *ones)}


def difference(parts: dict[str, Any], shape: torch.Size) -> Any:
    """Return by what a layer's weights change, worked out by PEFT where it has the method."""
    second = next((parts[name] for name in ("hada_w1_b", "lokr_w2_b", "lora_down.weight") if name in parts), None)
    alpha = parts.get("alpha")
    scale = 1.0 if alpha is None or second is None else float(alpha) / len(second)
    if "hada_w1_a" in parts:
        matrices = [parts[f"hada_w{n}_{side}"] for n in (1, 2) for side in "ab"]
        return make_weight(*matrices, torch.tensor(scale)).reshape(shape)
    if "lokr_w1" in parts:
        if "lokr_w2" in parts:
            return make_kron(parts["lokr_w1"], parts["lokr_w2"]).reshape(shape)
        a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
        made = make_weight_cp(parts["lokr_t2"], a, b) if "lokr_t2" in parts else a @ b
        return make_kron(parts["lokr_w1"], made, scale).reshape(shape)
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    if "lora_mid.weight" in parts:
        # Three convolutions, one after the other, of each unit of the input.
        made = torch.nn.functional.conv2d(torch.eye(down.shape[1])[:, :, None, None], down)
        made = torch.nn.functional.conv2d(torch.nn.functional.pad(made, [2, 2, 2, 2]), parts["lora_mid.weight"])
        # What a kernel does to a single point is the kernel, turned round.
        return scale * torch.nn.functional.conv2d(made, up).transpose(0, 1).flip(2, 3)
    return (scale * up.flatten(1) @ down.flatten(1)).reshape(shape)


def merge(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Change a pipeline's own weights as the file says, and the lengths of a DoRA's."""
    tensors = safetensors.torch.load_file(file)
    for key, module in _modules(pipeline, (*CONVS, *OUTSIDE), TEXT):
        parts = {name.removeprefix(f"{key}."): one for name, one in tensors.items() if name.startswith(f"{key}.")}
        if not parts:
            continue
        changed = (module.weight.data + scale * difference(parts, module.weight.shape)).flatten(1)
        if "dora_scale" in parts:
            changed = changed / changed.norm(dim=1, keepdim=True) * parts["dora_scale"].flatten(1)
        module.weight.data = changed.reshape(module.weight.shape)


def _modules(pipeline: Any, unet: Sequence[str], text: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the modules whose name ends so, by kohya's key: the path with underscores, after the component's prefix."""
    two = hasattr(pipeline, "text_encoder_2")
    parts = [("lora_unet", pipeline.unet, unet), ("lora_te1" if two else "lora_te", pipeline.text_encoder, text)]
    parts += [("lora_te2", pipeline.text_encoder_2, text)] if two else []
    for prefix, component, wanted in parts:
        for name, module in component.named_modules():
            if wanted and f".{name}".endswith(tuple(f".{kind}" for kind in wanted)):
                # The trainer's names are those of Transformers 4, whose text encoders were wrapped.
                path = name if prefix == "lora_unet" or name.startswith("text_model.") else f"text_model.{name}"
                yield f"{prefix}_{path.replace('.', '_')}", module
