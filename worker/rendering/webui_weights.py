"""Embeddings of prompts in the web UI's language (`storage.spec.webui_prompts`), computed as the web UI does it.

A prompt of any length is encoded in chunks of 75 tokens, each by itself, and the chunks are put one behind the other.
Each token's embedding is multiplied by its weight; then the chunk is scaled so that its mean is what it was.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from storage.spec.webui_prompts import Piece, parse

#: A chunk that is full ends behind its last comma, if that is no further back than so many tokens.
_COMMA_REACH = 20


#: Of the spread: a smaller mean is noise, and nothing can be scaled to keep it. CLIP's is a tenth of its spread.
_SMALLEST_MEAN = 0.01


class _Token(NamedTuple):
    id: int
    weight: float


_Chunk = list[_Token]


class Encoder:
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
        """Split a text in the web UI's language into chunks; at least one, which may be empty."""
        return self._chunks(parse(prompt))

    def chunks_of_letters(self, prompt: str) -> list[_Chunk]:
        """Split a text of which each letter means itself."""
        return self._chunks([[(prompt, 1.0)]])

    def encode(self, chunk: _Chunk, *, normed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a chunk's embeddings, and the encoder's first output, which is the pooled one of SDXL's second."""
        states, first = self.states(chunk, normed=normed)
        return _weighted(states, self.factors(chunk)), first

    def states(self, chunk: _Chunk, *, normed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a chunk's embeddings before they are weighted, and the encoder's first output."""
        ids = [token.id for token in chunk]
        # Behind the first end of the text comes what the tokenizer pads with.
        ids = [self._tokenizer.bos_token_id, *ids, self._tokenizer.eos_token_id] + [self._tokenizer.pad_token_id] * (
            self._room - len(ids)
        )
        found = self._encoder(torch.tensor([ids], device=self._device), output_hidden_states=True)
        states = found[0] if self._layer is None else found.hidden_states[self._layer]
        if self._layer is not None and normed:
            states = getattr(self._encoder, "text_model", self._encoder).final_layer_norm(states)
        return states, found[0]

    def factors(self, chunk: _Chunk) -> list[float]:
        """Return the weights of a chunk's tokens, its start, end and padding among them."""
        return [1.0, *(token.weight for token in chunk), *[1.0] * (self._room - len(chunk) + 1)]

    def _chunks(self, sections: Sequence[Sequence[Piece]]) -> list[_Chunk]:
        *found, last = [list(self._of_section(section)) for section in sections]
        # What ends with a `BREAK` has no empty chunk behind it.
        return [chunk for chunks in found for chunk in chunks] + (last if last != [[]] or not found else [])

    def _of_section(self, pieces: Sequence[Piece]) -> Iterator[_Chunk]:
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
    [weighted] = weighted_together([states], [weights], [1])
    return weighted


def weighted_together(
    states: Sequence[torch.Tensor], weights: Sequence[list[float]], counts: Sequence[int]
) -> Sequence[torch.Tensor]:
    """Weight chunks, and scale them so that their common mean is what it was.

    Args:
        counts: how often each chunk counts: the web UI encodes the texts between which a prompt changes in one batch,
            a text as often as it is changed to.
    """
    if all(weight == 1.0 for of_chunk in weights for weight in of_chunk):
        return states
    weighted = [
        one * torch.tensor(factors, device=one.device, dtype=one.dtype).reshape(1, -1, 1)
        for one, factors in zip(states, weights, strict=True)
    ]
    mean = _mean(states, counts)
    if mean.abs() < _SMALLEST_MEAN * min(one.std() for one in states):
        return weighted
    return [one * (mean / _mean(weighted, counts)) for one in weighted]


def _mean(chunks: Sequence[torch.Tensor], counts: Sequence[int]) -> torch.Tensor:
    if len(chunks) == 1:
        return chunks[0].mean()
    means = torch.stack([chunk.mean() * count for chunk, count in zip(chunks, counts, strict=True)])
    return means.sum() / sum(counts)


def encoders_of(pipeline: Any, *, clip_skip: int | None, two_encoders: bool) -> list[Encoder]:
    """Return a pipeline's text encoders, which return what its UNet takes."""
    device = pipeline._execution_device
    skip = clip_skip or 0
    if two_encoders:
        # SDXL takes both encoders' last layer but one.
        return [
            Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=-(skip + 2), device=device),
            Encoder(pipeline.tokenizer_2, pipeline.text_encoder_2, layer=-(skip + 2), device=device),
        ]
    layer = -(skip + 1) if skip else None
    return [Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=layer, device=device)]


def weighted_embeddings(
    pipeline: Any, prompts: tuple[str, str], *, clip_skip: int | None, two_encoders: bool, letters: bool = False
) -> dict[str, torch.Tensor]:
    """Return the embeddings of a prompt and a negative prompt, equally long, by the names of a pipeline's arguments.

    Args:
        letters: each letter means itself: only their length is of no matter.
    """
    encoders = encoders_of(pipeline, clip_skip=clip_skip, two_encoders=two_encoders)
    split = Encoder.chunks_of_letters if letters else Encoder.chunks
    chunks = [[split(encoder, prompt) for encoder in encoders] for prompt in prompts]
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
