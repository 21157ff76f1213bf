"""Embeddings of prompts in Compel's language, of any length, in chunks of 75 tokens.

Compel's own classes for pipelines are not used: the one for SDXL makes the pooled embeddings of the raw text, with its
parentheses and numbers, and fails where the parts of `.and()` have weights.
"""

import re
from typing import Any

import torch
from compel import Compel, ReturnedEmbeddingsType
from compel.prompt_parser import Blend, Conjunction, CrossAttentionControlSubstitute

from storage.spec.compel_prompts import check_blend

_LEFT_OVER = re.compile(r"\.(?:and|add|blend|swap|attend)\(")


class _CompelEncoder:
    def __init__(self, tokenizer: Any, encoder: Any, *, two_encoders: bool, device: Any) -> None:
        kind = ReturnedEmbeddingsType
        self._compel = Compel(
            tokenizer=tokenizer,
            text_encoder=encoder,
            returned_embeddings_type=(
                kind.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if two_encoders else kind.LAST_HIDDEN_STATES_NORMALIZED
            ),
            truncate_long_prompts=False,
            device=device,
        )
        self._device = device

    def encode(self, prompt: Conjunction) -> torch.Tensor:
        """Return (1, 77 · chunks, width)."""
        found: Any = self._compel.build_conditioning_tensor_for_conjunction(prompt, return_tokenization=True)[0]
        encoded: torch.Tensor = found if found.dim() == 3 else found[None]
        return encoded

    def padded(self, embeddings: torch.Tensor, length: int) -> torch.Tensor:
        """Lengthen embeddings by those of an empty prompt."""
        empty = self._compel.conditioning_provider.empty_z
        empty = empty if empty.dim() == 3 else empty[None]
        missing = (length - embeddings.shape[1]) // empty.shape[1]
        return torch.cat([embeddings, *[empty.to(embeddings)] * missing], dim=1)

    def pooled(self, prompt: Conjunction) -> torch.Tensor:
        """Return (1, width) of the words alone; of a blend, the blend of its parts."""
        parts = []
        for part in prompt.prompts:
            if isinstance(part, Blend):
                weights = torch.tensor(part.weights)
                weights = weights / weights.sum() if part.normalize_weights else weights
                each = torch.cat([self._pool(_words(one)) for one in part.prompts])
                return (weights[:, None].to(each) * each).sum(dim=0, keepdim=True)
            parts.append(_words(part))
        return self._pool(" ".join(parts))

    def _pool(self, words: str) -> torch.Tensor:
        found: torch.Tensor = self._compel.conditioning_provider.get_pooled_embeddings([words], device=self._device)
        return found


def compel_embeddings(pipeline: Any, prompts: tuple[str, str], *, two_encoders: bool) -> dict[str, torch.Tensor]:
    """Return the embeddings of a prompt and a negative prompt, equally long, by the names of a pipeline's arguments.

    Raises ValueError for what Compel cannot read or would not do.
    """
    device = pipeline._execution_device
    parsed = [_parsed(prompt) for prompt in prompts]
    parts = [(pipeline.tokenizer, pipeline.text_encoder)]
    if two_encoders:
        parts.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    encoders = [_CompelEncoder(*part, two_encoders=two_encoders, device=device) for part in parts]
    encoded = [[encoder.encode(prompt) for encoder in encoders] for prompt in parsed]
    length = max(one.shape[1] for both in encoded for one in both)
    found = {}
    for prefix, prompt, both in zip(("", "negative_"), parsed, encoded, strict=True):
        columns = [encoder.padded(one, length) for encoder, one in zip(encoders, both, strict=True)]
        found[f"{prefix}prompt_embeds"] = torch.cat(columns, dim=-1)
        if two_encoders:
            found[f"{prefix}pooled_prompt_embeds"] = encoders[-1].pooled(prompt)
    return found


def _parsed(prompt: str) -> Conjunction:
    """Parse a prompt to its end. Raises ValueError."""
    try:
        read = Compel.parse_prompt_string(prompt)
    except Exception as error:
        # Compel's parser raises many kinds of errors, all of them about the prompt.
        raise ValueError(f"Compel cannot parse its weights: {error}") from error
    if read.lora_weights:
        raise ValueError("withLora() changes nothing here; name LoRAs in the field `loras`")
    for part in read.prompts:
        for one in part.prompts if isinstance(part, Blend) else [part]:
            for fragment in one.children:
                if isinstance(fragment, CrossAttentionControlSubstitute):
                    raise ValueError(".swap() changes nothing in these pipelines")
                if left_over := _LEFT_OVER.search(fragment.text):
                    raise ValueError(f"{left_over[0]}…) stands where Compel reads it as words")
                if fragment.weight < 0:
                    raise ValueError("weights cannot be negative")
        if isinstance(part, Blend) and part.normalize_weights:
            check_blend(part.weights)
    return read


def _words(prompt: Any) -> str:
    return " ".join(fragment.text for fragment in prompt.children if fragment.text)
