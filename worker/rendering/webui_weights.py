"""Embeddings of prompts in the web UI's language (`storage.spec.webui_prompts`), computed as the web UI does it.

A prompt of any length is encoded in chunks of 75 tokens, each by itself, and the chunks are put one behind the other.
Each token's embedding is multiplied by its weight; then the chunk is scaled so that its mean is what it was.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from storage.spec.webui_prompts import parse

#: A chunk that is full ends behind its last comma, if that is no further back than so many tokens.
_COMMA_REACH = 20


#: Of the spread: a smaller mean is noise, and nothing can be scaled to keep it. CLIP's is a tenth of its spread.
_SMALLEST_MEAN = 0.01


class _Token(NamedTuple):
    id: int
    weight: float


_Chunk = list[_Token]


class _Encoder:
    """One text encoder with its tokenizer."""

    def __init__(self, tokenizer: Any, encoder: Any, *, layer: int | None, device: Any) -> None:
        """Take the parts of a pipeline.

        Args:
            layer: index of the hidden states to return, without their norm in SDXL; None: the encoder's output.
        """
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._layer = layer
        self._device = device
        self._room = tokenizer.model_max_length - 2
        self._comma = next(iter(self._ids(",")), None)

    def chunks(self, prompt: str) -> list[_Chunk]:
        """Split a prompt into chunks; at least one, which may be empty."""
        return [chunk for section in parse(prompt) for chunk in self._of_section(section)]

    def encode(self, chunk: _Chunk, *, normed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a chunk's embeddings, and the encoder's first output, which is the pooled one of SDXL's second."""
        ids = [token.id for token in chunk]
        padding = self._room - len(ids)
        # Behind the first end of the text comes what the tokenizer pads with.
        ids = [self._tokenizer.bos_token_id, *ids, self._tokenizer.eos_token_id] + [
            self._tokenizer.pad_token_id
        ] * padding
        found = self._encoder(torch.tensor([ids], device=self._device), output_hidden_states=True)
        states = found[0] if self._layer is None else found.hidden_states[self._layer]
        if self._layer is not None and normed:
            states = getattr(self._encoder, "text_model", self._encoder).final_layer_norm(states)
        return _weighted(states, [1.0, *(token.weight for token in chunk), *[1.0] * (padding + 1)]), found[0]

    def _of_section(self, pieces: Sequence[tuple[str, float]]) -> Iterator[_Chunk]:
        chunk: _Chunk = []
        comma: int | None = None
        for text, weight in pieces:
            for token in self._ids(text):
                if len(chunk) == self._room:
                    reaches = comma is not None and len(chunk) - comma <= _COMMA_REACH and token != self._comma
                    at = comma + 1 if comma is not None and reaches else len(chunk)
                    yield chunk[:at]
                    chunk, comma = chunk[at:], None
                if token == self._comma:
                    comma = len(chunk)
                chunk.append(_Token(token, weight))
        yield chunk

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, truncation=False, add_special_tokens=False, verbose=False).input_ids)


def _weighted(states: torch.Tensor, weights: list[float]) -> torch.Tensor:
    if all(weight == 1.0 for weight in weights):
        return states
    factors = torch.tensor(weights, device=states.device, dtype=states.dtype).reshape(1, -1, 1)
    weighted = states * factors
    if states.mean().abs() < _SMALLEST_MEAN * states.std():
        return weighted
    return weighted * (states.mean() / weighted.mean())


def weighted_embeddings(
    pipeline: Any, prompts: tuple[str, str], *, clip_skip: int | None, two_encoders: bool
) -> dict[str, torch.Tensor]:
    """Return the embeddings of a prompt and a negative prompt, equally long, by the names of a pipeline's arguments."""
    device = pipeline._execution_device
    skip = clip_skip or 0
    if two_encoders:
        # SDXL takes both encoders' last layer but one.
        encoders = [
            _Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=-(skip + 2), device=device),
            _Encoder(pipeline.tokenizer_2, pipeline.text_encoder_2, layer=-(skip + 2), device=device),
        ]
    else:
        layer = -(skip + 1) if skip else None
        encoders = [_Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=layer, device=device)]
    chunks = [[encoder.chunks(prompt) for encoder in encoders] for prompt in prompts]
    most = max(len(of_encoder) for of_prompt in chunks for of_encoder in of_prompt)
    found: dict[str, torch.Tensor] = {}
    for prefix, of_prompt in zip(("", "negative_"), chunks, strict=True):
        columns = []
        for encoder, own in zip(encoders, of_prompt, strict=True):
            filled = [*own, *[[]] * (most - len(own))]
            encoded = [encoder.encode(chunk, normed=not two_encoders) for chunk in filled]
            columns.append(torch.cat([states for states, _ in encoded], dim=1))
            if two_encoders and encoder is encoders[-1]:
                found[f"{prefix}pooled_prompt_embeds"] = encoded[0][1]
        found[f"{prefix}prompt_embeds"] = torch.cat(columns, dim=-1)
    return found
