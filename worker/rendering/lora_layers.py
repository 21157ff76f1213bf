"""A component's layers as LoRAs change them: all rows of a call alike, or each row by matrices of its own.

The layers' own weights stay as they are. What a LoRA adds is added to a layer's output by a hook, which is there only
while a LoRA is on that changes this layer.

For calls whose rows differ, the matrices of several sets stand at *places* of one stack, padded with zeros to one rank,
and each row takes those of its place: three operations for a layer, however many sets there are. Place 0 adds zeros.
The last bits of a row depend on that rank, and on nothing of its neighbours.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from worker.rendering.lora_changes import Full, LowRank
from worker.rendering.lora_set import LoraSet

_LEAST_RANK = 4


def padded(rank: int) -> int:
    """Return the rank to which matrices are filled up: a power of two, 4 at least."""
    return max(_LEAST_RANK, 1 << (rank - 1).bit_length())


class _Rows:
    """Which place each row of the next call has; shared by all layers of a component."""

    def __init__(self) -> None:
        self.places: torch.Tensor | None = None


class _Layer:
    """What is added to one layer's output. Called as a hook."""

    def __init__(self, layer: Any, rows: _Rows) -> None:
        self.layer = layer
        self.rows = rows
        #: Stacks, (places, rank, inputs, …) and (places, outputs, rank).
        self.downs: torch.Tensor | None = None
        self.ups: torch.Tensor | None = None
        #: For all rows: (rank, inputs, …) and (outputs, rank); a difference of the weights; one of the bias.
        self.down: torch.Tensor | None = None
        self.up: torch.Tensor | None = None
        self.difference: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None
        self.hook: Any = None

    def __call__(self, _layer: Any, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        places = self.rows.places
        if places is not None:
            if self.downs is None or self.ups is None:
                return None
            return self._by_row(given[0], output, places)
        if self.down is not None and self.up is not None:
            output = output + self._applied(given[0], self.down, self.up)
        if self.difference is not None:
            output = output + self._with(given[0], self.difference)
        if self.bias is not None:
            output = output + self.bias.reshape(-1, *[1] * (self._kernel_axes()))
        return output

    def empty(self) -> None:
        self.down = self.up = self.difference = self.bias = None

    def _kernel_axes(self) -> int:
        return int(self.layer.weight.dim()) - 2

    def _with(self, given: torch.Tensor, weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
        """Do what the layer does, with other weights and no bias."""
        layer = self.layer
        if not self._kernel_axes():
            return functional.linear(given, weight)
        return functional.conv2d(
            given, weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=groups
        )

    def _applied(self, given: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        within = self._with(given, down)
        return functional.conv2d(within, up[..., None, None]) if self._kernel_axes() else functional.linear(within, up)

    def _by_row(self, given: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        if self.downs is None or self.ups is None:
            raise AssertionError("unreachable: asked for by a hook that has looked")
        downs, ups = self.downs.index_select(0, places), self.ups.index_select(0, places)
        rows, rank = downs.shape[:2]
        if not self._kernel_axes():
            flat = given.reshape(rows, -1, given.shape[-1])
            within = torch.bmm(flat, downs.transpose(1, 2))
            added = torch.baddbmm(output.reshape(rows, -1, output.shape[-1]), within, ups.transpose(1, 2))
            return added.reshape(output.shape)
        if downs[0, 0, 0].numel() == 1 and self.layer.stride in (1, (1, 1)) and self.layer.padding in (0, (0, 0)):
            within = torch.bmm(downs.flatten(2), given.flatten(2))
        else:
            # All rows as one, each a group of channels.
            one = self._with(given.reshape(1, -1, *given.shape[2:]), downs.flatten(0, 1), groups=rows)
            within = one.reshape(rows, rank, -1)
        return torch.baddbmm(output.flatten(2), ups, within).reshape(output.shape)


class LoraLayers:
    """The layers of one component that LoRAs may change."""

    def __init__(self, name: str, component: torch.nn.Module, *, compiled: bool = False) -> None:
        """
        Args:
            name: the component's, as in `LoraSet.of`.
            compiled: whether the component is compiled: hooks and shapes then stay as they are, or it would be compiled
                again.
        """
        self._name = name
        self._component = component
        self._compiled = compiled
        self._rows = _Rows()
        self._layers: dict[str, _Layer] = {}
        #: Key of what is on for all rows.
        self._on: tuple[object, ...] | None = None
        #: Which set is at which place, the one used last at the end.
        self._placed: OrderedDict[tuple[object, ...], tuple[int, LoraSet]] = OrderedDict()
        self._places, self._rank = 0, 0
        if compiled:
            # Before the component is compiled for the first time, which sees hooks that are there, and no later ones.
            for path, layer in component.named_modules():
                if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and getattr(layer, "groups", 1) == 1:
                    self._hook(path)

    @property
    def _like(self) -> torch.Tensor:
        return next(self._component.parameters())

    def off(self) -> None:
        """Have nothing added to anything; matrices at places stay."""
        for layer in self._layers.values():
            layer.empty()
        self._rows.places = None
        self._unhook(set())
        self._on = None

    def forget(self) -> None:
        """Give back the memory of what is at places."""
        self._placed.clear()
        self._places = self._rank = 0
        for layer in self._layers.values():
            layer.downs = layer.ups = None

    # -- all rows alike ----------------------------------------------------------------------------------------

    def use(self, loras: LoraSet) -> None:
        """Have all rows of the next calls changed by these LoRAs; raises whatever PyTorch does."""
        wanted = loras.layers(self._name)
        key = (*loras.key, self._like.dtype)
        if self._on == key and self._rows.places is None:
            return
        self.off()
        try:
            for path in wanted:
                self._prepare(self._hook(path), loras.of(self._name, path))
        except BaseException:
            self.off()
            raise
        self._on = key

    def _prepare(self, layer: _Layer, changes: Sequence[tuple[Any, float]]) -> None:
        weight = layer.layer.weight
        scaled = [one.scaled(scale, weight.dtype, weight.device) for one, scale in changes if isinstance(one, LowRank)]
        if scaled:
            rank = padded(sum(len(down) for down, _ in scaled))
            layer.down = weight.new_zeros(rank, *weight.shape[1:])
            layer.up = weight.new_zeros(len(weight), rank)
            _fill(layer.down, layer.up, scaled)
        for one, scale in changes:
            if isinstance(one, Full):
                made = one.difference(weight) * scale
                layer.difference = made if layer.difference is None else layer.difference + made
                if one.bias is not None:
                    more = one.bias.to(weight.device, torch.float32) * one.factor * scale
                    layer.bias = more if layer.bias is None else layer.bias + more
        if layer.difference is not None:
            layer.difference = layer.difference.to(weight.dtype)
        if layer.bias is not None:
            layer.bias = layer.bias.to(weight.dtype)

    # -- rows of their own -------------------------------------------------------------------------------------

    def use_by_row(self, sets: Sequence[LoraSet | None], row_of: Sequence[int], rank: int | None = None) -> int | None:
        """Have each row of the next call changed by its own LoRAs.

        Args:
            sets: those of each picture, all of low rank.
            row_of: for each row, the number of its picture.
            rank: pad to this one, in a call that is made again.

        Return the rank to which matrices were padded; None: there are no LoRAs, and nothing is added.
        Raises whatever PyTorch does.
        """
        distinct = {one.key: one for one in sets if one is not None}
        if not distinct:
            self.off()
            return None
        if any(not one.is_low_rank for one in distinct.values()):
            raise ValueError("only sets of low rank can be used row by row")
        self._place_all(distinct, rank)
        self._hook_for(distinct)
        places = [0 if one is None else self._placed[one.key][0] for one in sets]
        self._rows.places = torch.tensor([places[number] for number in row_of], device=self._like.device)
        return self._rank

    def make_room(self, sets: Sequence[LoraSet | None]) -> None:
        """Have a place for each of these sets, of those of low rank. Raises whatever PyTorch does."""
        if distinct := {one.key: one for one in sets if one is not None and one.is_low_rank}:
            self._place_all(distinct, None)

    def _place_all(self, distinct: dict[tuple[object, ...], LoraSet], rank: int | None) -> None:
        try:
            self._place(distinct, rank)
        except BaseException:
            # Memory may have run out: what is there may be half of it.
            self.off()
            self.forget()
            raise

    def _hook_for(self, distinct: Mapping[tuple[object, ...], LoraSet]) -> None:
        """Have the layers hooked that any of these sets changes, if they are not."""
        if self._on == ("by row", frozenset(distinct)):
            return
        for layer in self._layers.values():
            layer.empty()
        wanted: set[str] = set().union(*(one.layers(self._name) for one in distinct.values()))
        self._unhook(wanted)
        for path in wanted:
            self._hook(path)
        self._on = ("by row", frozenset(distinct))

    def _place(self, distinct: dict[tuple[object, ...], LoraSet], rank: int | None) -> None:
        """See to it that each of these sets has a place."""
        needed = padded(max(one.rank for one in distinct.values()))
        if rank is not None and rank < needed:
            raise ValueError(f"LoRAs of rank {needed} cannot be padded to {rank}")
        fits = self._rank == rank if rank is not None else self._rank >= needed
        if not fits or self._places <= len(distinct) or self._is_too_wide(needed, rank):
            places = max(self._places, 1 + _power(len(distinct)))
            before = [layer for layer in self._layers.values() if layer.downs is not None] if self._compiled else []
            least = self._rank if self._compiled and rank is None else 0
            self.forget()
            self._places, self._rank = places, rank or max(least, needed)
            for layer in before:
                # A layer without any would be compiled anew.
                self._stack(layer)
        for key in distinct.keys() & self._placed.keys():
            self._placed.move_to_end(key)
        for key, one in distinct.items():
            if key not in self._placed:
                self._put(one)

    def _stack(self, layer: _Layer) -> None:
        weight = layer.layer.weight
        layer.downs = weight.new_zeros(self._places, self._rank, *weight.shape[1:])
        layer.ups = weight.new_zeros(self._places, len(weight), self._rank)

    def _is_too_wide(self, needed: int, rank: int | None) -> bool:
        """Tell whether no set that is at a place needs so high a rank."""
        if self._compiled or rank is not None:
            return False
        most = max((padded(one.rank) for _, one in self._placed.values()), default=0)
        return max(needed, most) < self._rank

    def _put(self, loras: LoraSet) -> None:
        """Copy a set's matrices to a free place, or to the one that was not used for the longest time."""
        if len(self._placed) < self._places - 1:
            taken = {place for place, _ in self._placed.values()}
            place = next(number for number in range(1, self._places) if number not in taken)
        else:
            _, (place, _) = self._placed.popitem(last=False)
        for path in loras.layers(self._name):
            layer = self._layers.setdefault(path, self._made(path))
            if layer.downs is None:
                self._stack(layer)
        for path, layer in self._layers.items():
            if layer.downs is not None and layer.ups is not None:
                layer.downs[place].zero_()
                layer.ups[place].zero_()
                weight = layer.layer.weight
                changes = [(one, scale) for one, scale in loras.of(self._name, path) if isinstance(one, LowRank)]
                scaled = [one.scaled(scale, weight.dtype, weight.device) for one, scale in changes]
                _fill(layer.downs[place], layer.ups[place], scaled)
        self._placed[loras.key] = (place, loras)

    # -- hooks -------------------------------------------------------------------------------------------------

    def _made(self, path: str) -> _Layer:
        return self._layers.get(path) or _Layer(self._component.get_submodule(path), self._rows)

    def _hook(self, path: str) -> _Layer:
        layer = self._layers.setdefault(path, self._made(path))
        if layer.hook is None:
            layer.hook = layer.layer.register_forward_hook(layer)
        return layer

    def _unhook(self, but: set[str]) -> None:
        if self._compiled:
            return
        for path, layer in self._layers.items():
            if path not in but and layer.hook is not None:
                layer.hook.remove()
                layer.hook = None


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _fill(down: torch.Tensor, up: torch.Tensor, scaled: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write matrices one after the other into larger ones."""
    at = 0
    for one, other in scaled:
        down[at : at + len(one)] = one.reshape(len(one), *down.shape[1:])
        up[:, at : at + len(one)] = other
        at += len(one)
