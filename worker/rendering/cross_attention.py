"""What cross-attention makes of prompts, kept from one call of a UNet to the next.

Keys and values of the layers that attend to prompts are made of the embeddings alone, which are the same at every step:
of a small UNet's time on a CPU, a twentieth (the shipped model, sixteen rows). Nothing but the very same embeddings, by
as many threads, gets what was made before, so that no bit depends on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

#: More is not kept: of a large UNet, whose time goes into other layers.
_MOST_BYTES = 64 * 2**20


class KeptProjections:
    """The keys and values of one UNet's last call; LoRAs are added to them afterwards, by hooks, at each call."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self._layers: list[Any] = [
            layer
            for name, layer in unet.named_modules()
            if name.endswith(("attn2.to_k", "attn2.to_v")) and type(layer) is torch.nn.Linear
        ]
        #: What stands in each layer itself, and what is to stand there in a call.
        self._forwards = [
            (vars(layer), partial(self._projected, number, layer)) for number, layer in enumerate(self._layers)
        ]
        self._of: tuple[torch.Tensor, int] | None = None
        self._made: dict[int, torch.Tensor] = {}

    @contextmanager
    def used(self, embeddings: torch.Tensor) -> Iterator[None]:
        """Have them used in a call for these embeddings, (rows, tokens, width). Outside, layers are as they were."""
        if (self._of is None or self._of[0] is not embeddings) and not self._is_worth_it(embeddings):
            self._of = None
            self._made.clear()
            yield
            return
        threads = torch.get_num_threads()
        if self._of is None or self._of[0] is not embeddings or self._of[1] != threads:
            self._of = (embeddings, threads)
            self._made.clear()
        # Whatever another library made of a layer stays.
        own = [(layer, forward) for layer, forward in self._forwards if "forward" not in layer]
        try:
            for layer, forward in own:
                # What `layer.forward = …` does, too, once a module has looked whether that is a parameter: for long.
                layer["forward"] = forward
            yield
        finally:
            for layer, _ in own:
                layer.pop("forward", None)

    def _is_worth_it(self, embeddings: torch.Tensor) -> bool:
        """Tell whether there is a processor's time to be saved, and little memory to be kept."""
        rows = embeddings[..., 0].numel()
        kept = rows * embeddings.element_size() * sum(layer.out_features for layer in self._layers)
        return embeddings.device.type == "cpu" and kept <= _MOST_BYTES

    def _projected(self, number: int, layer: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
        embeddings = None if self._of is None else self._of[0]
        if given is not embeddings:
            return torch.nn.Linear.forward(layer, given)
        made = self._made.get(number)
        if made is None:
            made = self._made[number] = torch.nn.Linear.forward(layer, given)
        return made
