"""What a LoRA does to one layer: a product of two small matrices beside its weights, or a difference of all of them.

A file of LyCORIS' methods or with a DoRA's magnitudes holds something small from which the difference of a layer's
whole weights is made; it is made when the LoRA is switched on, and kept no longer than that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

#: Parts of a module in a file, by the names that are used here → tensors.
Parts = Mapping[str, torch.Tensor]

#: Parts of each method: those that are needed, and those that may be there.
_LORA = ({"down", "up"}, {"mid", "bias"})
_LOHA = ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"hada_t1", "hada_t2"})
_LOKR = (set[str](), {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"})
_BESIDE = {"alpha", "magnitude"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """A layer's output changes by `factor · up · down · input`."""

    #: (rank, inputs) or, of a convolution, (rank, inputs, height, width).
    down: torch.Tensor
    #: (outputs, rank).
    up: torch.Tensor
    #: alpha ÷ rank.
    factor: float

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.down, self.up

    def scaled(self, scale: float, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both matrices with all factors in them: half in each, for half precision has no very small numbers."""
        factor = self.factor * scale
        root = abs(factor) ** 0.5
        down = self.down.to(device, torch.float32) * root
        up = self.up.to(device, torch.float32) * (root if factor >= 0 else -root)
        return down.to(dtype), up.to(dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Full:
    """A layer's weights change by a difference that is made of what the file holds."""

    parts: Parts
    factor: float

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(self.parts.values())

    @property
    def bias(self) -> torch.Tensor | None:
        """By what the bias changes, without the factor; (outputs)."""
        return self.parts.get("bias")

    @property
    def has_magnitude(self) -> bool:
        return "magnitude" in self.parts

    def difference(self, weight: torch.Tensor) -> torch.Tensor:
        """Return by what weights change at a scale of 1, in single precision, on their device.

        A DoRA has each output's weights the length that its magnitude says (arXiv:2402.09353, formula 5).
        """
        parts = {name: part.to(weight.device, torch.float32) for name, part in self.parts.items()}
        made = (_product(parts) * self.factor).reshape(weight.shape)
        if "magnitude" in parts:
            before = weight.float()
            changed = before + made
            lengths = changed.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
            made = changed / lengths * parts["magnitude"].reshape(lengths.shape) - before
        return made


Change = LowRank | Full


def change(parts: Parts, layer: Any, place: str, *, factor: float | None = None) -> Change:
    """Return what a file's parts do to a layer.

    Args:
        factor: where the file's own alpha is not in `parts`.

    Raises ValueError if they cannot be applied to it.
    """
    weight = layer.weight
    needed, allowed = _of_method(parts)
    if missing := sorted(needed - parts.keys()):
        raise ValueError(f"{place}: {'one of its two matrices' if len(needed) == 2 else ', '.join(missing)} is missing")
    if other := sorted(parts.keys() - needed - allowed - _BESIDE):
        raise ValueError(f"{place}: {', '.join(other)} beside {', '.join(sorted(needed))} has no meaning here")
    if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) or getattr(layer, "groups", 1) != 1:
        raise ValueError(f"{place} is a {type(layer).__name__}, which no LoRA can change here")
    scale = _factor(parts) if factor is None else factor
    rest = {name: part.contiguous().clone() for name, part in parts.items() if name != "alpha"}
    if "magnitude" in rest:
        rest["magnitude"] = _magnitude(rest["magnitude"], weight, place)
    _check_shape(rest, weight, place)
    if rest.keys() == {"down", "up"}:
        return LowRank(down=rest["down"], up=rest["up"].flatten(1), factor=scale)
    made = Full(parts=rest, factor=scale)
    if made.bias is not None and made.bias.shape != (len(weight),):
        raise ValueError(f"{place}: it changes {made.bias.numel()} biases of {len(weight)}")
    return made


def _of_method(parts: Parts) -> tuple[set[str], set[str]]:
    if any(name.startswith("hada_") for name in parts):
        return _LOHA
    if any(name.startswith("lokr_") for name in parts):
        one = {"lokr_w1"} if "lokr_w1" in parts else {"lokr_w1_a", "lokr_w1_b"}
        two = {"lokr_w2"} if "lokr_w2" in parts else {"lokr_w2_a", "lokr_w2_b"}
        return one | two, {"lokr_t2"} if "lokr_w2_a" in parts else set()
    return _LORA


def _factor(parts: Parts) -> float:
    """Return alpha ÷ rank; a file without alphas means 1. A LoKr of two whole matrices has no rank, and no factor."""
    second = next((name for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b", "down") if name in parts), None)
    if "alpha" not in parts or second is None:
        return 1.0
    return float(parts["alpha"]) / len(parts[second])


def _check_shape(parts: Parts, weight: torch.Tensor, place: str) -> None:
    """Raise ValueError unless the parts make something of the weights' shape."""
    if "down" in parts and "mid" not in parts:
        down, up = parts["down"], parts["up"]
        if down.shape[1] != weight.shape[1] or len(up) != len(weight):
            raise ValueError(
                f"{place} turns {down.shape[1]} numbers into {len(up)}, in this model {weight.shape[1]} into "
                f"{len(weight)}: it was made for another kind of model"
            )
        # Some trainers write 1×1 kernels to linear layers, and matrices to layers that are 1×1 kernels.
        fits = down[0].numel() == weight[0].numel() and up.flatten(1).shape == (len(weight), len(down))
    else:
        try:
            # Without contents: only the shapes.
            made = _product({name: torch.empty(part.shape, device="meta") for name, part in parts.items()})
            fits = len(made) == len(weight) and made.numel() == weight.numel()
        except (RuntimeError, IndexError):
            fits = False
    if not fits:
        shapes = ", ".join(f"{name} {'×'.join(map(str, part.shape)) or '1'}" for name, part in sorted(parts.items()))
        raise ValueError(
            f"{place}, whose weights are {'×'.join(map(str, weight.shape))}, cannot be changed by {shapes}: it was "
            "made for another kind of model"
        )


def _magnitude(given: torch.Tensor, weight: torch.Tensor, place: str) -> torch.Tensor:
    """Return a DoRA's magnitudes, one for each output."""
    if given.numel() != len(weight) or (given.dim() > 1 and 1 < given.shape[1] != len(weight)):
        raise ValueError(f"{place}: its DoRA magnitudes (dora_scale) are those of inputs, which cannot be applied here")
    return given.reshape(-1)


def _product(parts: Parts) -> torch.Tensor:
    """Return a difference of weights, (outputs, …), without its factor.

    LoRA: up · down, with a kernel between them in Tucker's form. LoHa: the product, value by value, of two such
    (arXiv:2108.06098). LoKr: the Kronecker product of two, either of which may be a product itself (arXiv:2309.14859).
    """
    if "hada_w1_a" in parts:
        one, two = (_pair(parts, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2))
        return one * two
    if any(name.startswith("lokr_") for name in parts):
        first = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
        if "lokr_w2" in parts:
            second = parts["lokr_w2"]
        elif "lokr_t2" in parts:
            second = _pair(parts, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        else:
            second = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        first = first.reshape(*first.shape, *[1] * (second.dim() - first.dim()))
        return torch.kron(first, second.contiguous())
    if "mid" in parts:
        # (rank, rank, height, width) between (rank, inputs) and (outputs, rank).
        down, up = parts["down"].flatten(1), parts["up"].flatten(1)
        return torch.einsum("or,rshw,si->oihw", up, parts["mid"], down)
    return parts["up"].flatten(1) @ parts["down"].flatten(1)


def _pair(parts: Parts, first: str, second: str, kernel: str) -> torch.Tensor:
    """Return a product of two; in Tucker's form (rank, outputs) and (rank, inputs) stand beside the kernel."""
    if kernel not in parts:
        return parts[first] @ parts[second]
    return torch.einsum("rshw,si,ro->oihw", parts[kernel], parts[second], parts[first])
