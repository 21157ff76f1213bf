"""Textual inversions: words of the registry that stand for learned vectors, in prompts and negative prompts.

Each vector gets a character of Unicode's private use as a token of its own, which replaces its word before a prompt is
read, so that weights and chunks work as for any token. The encoders' own tables stay as they are: their vectors are put
in while they run, and no other prompt notices.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken

from storage.errors import RenderFailed
from storage.rules.faults import Fault
from storage.spec.embedding_words import OF_TWO, for_model, word
from storage.spec.file_state import FileState, file_state
from storage.spec.model_files import public_source
from storage.spec.models import Embedding
from worker.rendering.lora_files import lora_file, read_tensors

#: Unicode's plane 15 is for private use.
_FIRST_CHARACTER = 0xF0000
#: The end of the text, as older configurations of CLIP have it: its encoder then looks for the highest token instead.
_LEGACY_END = 2


@dataclass(frozen=True, kw_only=True)
class _LoadedWord:
    entry: Embedding
    #: Changes with the file.
    stamp: tuple[str, FileState]
    characters: str
    sha256: str


class _VectorTable:
    """A tokenizer and text encoder that know vectors beside their own."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._first = len(tokenizer)
        self._table: list[torch.Tensor] = []
        self._asked: torch.Tensor | None = None
        self.width = int(encoder.config.hidden_size)
        table = encoder.get_input_embeddings()
        table.register_forward_pre_hook(self._before)
        table.register_forward_hook(self._after)
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == _LEGACY_END:
                # The highest token is the end of the text no more.
                module.eos_token_id = tokenizer.eos_token_id

    def add(self, characters: str, vectors: torch.Tensor) -> None:
        tokens = [AddedToken(character, normalized=False) for character in characters]
        if self._tokenizer.add_tokens(tokens) != len(vectors):
            raise ValueError("its tokens are known already")
        self._table += list(vectors)

    def _before(self, _module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = arguments[0]
        self._asked = ids
        return (ids.where(ids < self._first, 0), *arguments[1:])

    def _after(self, _module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        ids, self._asked = self._asked, None
        if ids is None or not self._table or not bool((ours := ids >= self._first).any()):
            return output
        vectors = torch.stack(self._table).to(output)
        found = output.clone()
        found[ours] = vectors[ids[ours] - self._first]
        return found


class EmbeddingWords:
    """The embeddings of a registry, as one model's text encoders know them; shared by models of the same weights."""

    def __init__(self, pipeline: Any, entries: Mapping[str, Embedding]) -> None:
        self._entries = entries
        self._parts = [
            (getattr(pipeline, tokenizer, None), getattr(pipeline, encoder, None))
            for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
        ]
        self._encoders: list[_VectorTable] = []
        self._loaded: dict[str, _LoadedWord] = {}
        self._unfit: dict[str, tuple[Embedding, str]] = {}
        self._next = _FIRST_CHARACTER

    def put_into(self, text: str, model: str) -> str:
        """Return a text in which the words of embeddings are their vectors' characters.

        Raises RenderFailed if the file of one cannot be read.
        """
        for alias in list(self.named_in(text, model)):
            if (loaded := self._get(alias)) is not None:
                text = word(alias).sub(loaded.characters, text)
        return text

    def taken_out(self, text: str) -> str:
        """Return a text in which the characters are words again."""
        for alias, loaded in self._loaded.items():
            text = text.replace(loaded.characters, alias)
        return text

    def word_start(self, text: str, at: int) -> int:
        """Return where the word begins within whose characters a place of a text is; the place itself outside."""
        for loaded in self._loaded.values():
            start = text.find(loaded.characters, max(0, at - len(loaded.characters) + 1))
            if 0 <= start < at:
                return start
        return at

    def named_in(self, text: str, model: str) -> Iterator[str]:
        """Yield the aliases that are words of a text, the longest first; of those for certain models, of this one's."""
        yield from (alias for alias in for_model(self._entries, model) if word(alias).search(text))

    def recipe(self, texts: Sequence[str], model: str) -> dict[str, Any]:
        """Return what a recipe says of those in these texts."""
        named = {alias: None for text in texts for alias in self.named_in(text, model)}
        loaded = {alias: self._loaded[alias] for alias in named if alias in self._loaded and alias not in self._unfit}
        return {
            alias: {"source": public_source(one.entry), "sha256": one.sha256} for alias, one in sorted(loaded.items())
        }

    def remarks(self, texts: Mapping[str, str], model: str) -> Iterator[str]:
        """Yield what is to be said of words that are read as words although they have an entry."""
        for field, text in texts.items():
            for alias in self.named_in(text, model):
                if alias in self._unfit:
                    yield f"{field}: the embedding {alias} {self._unfit[alias][1]}; it is read as words"

    def _get(self, alias: str) -> _LoadedWord | None:
        entry = self._entries[alias]
        try:
            file = lora_file(entry)
            stamp = (str(file), file_state(file))
            loaded = self._loaded.get(alias)
            if loaded is None or (loaded.entry, loaded.stamp) != (entry, stamp):
                self._unfit.pop(alias, None)
                self._load(alias, entry, file, stamp)
        except (OSError, ValueError) as error:
            words = f"prompt: the embedding {alias} ({public_source(entry)}) cannot be loaded: {error}"
            raise RenderFailed(words, Fault.BAD_PICTURE) from None
        return None if alias in self._unfit else self._loaded[alias]

    def _load(self, alias: str, entry: Embedding, file: Path, stamp: tuple[str, FileState]) -> None:
        vectors = vectors_in(file)
        encoders = self._known()
        widths, wanted = [one.shape[1] for one in vectors], [encoder.width for encoder in encoders]
        characters = "".join(chr(self._next + number) for number in range(len(vectors[0])))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        if widths != wanted:
            said = f"is for text encoders of {_and(widths)} numbers, and this model's have {_and(wanted)}"
            self._unfit[alias] = (entry, said)
        else:
            for encoder, one in zip(encoders, vectors, strict=True):
                encoder.add(characters, one)
            self._next += len(characters)
        self._loaded[alias] = _LoadedWord(entry=entry, stamp=stamp, characters=characters, sha256=sha256)

    def _known(self) -> list[_VectorTable]:
        if not self._encoders:
            self._encoders = [
                _VectorTable(tokenizer, encoder) for tokenizer, encoder in self._parts if encoder is not None
            ]
        return self._encoders


def vectors_in(file: Path) -> list[torch.Tensor]:
    """Return the vectors of a file, (n, width) for each text encoder. Raises ValueError if it holds something else.

    Of one encoder, the web UI names them `emb_params`, Diffusers by their token; of SDXL's two, both say `clip_l` and
    `clip_g`.
    """
    tensors = read_tensors(file)
    if set(tensors) == set(OF_TWO):
        found = [tensors[name] for name in OF_TWO]
    elif "emb_params" in tensors or len(tensors) == 1:
        found = [tensors.get("emb_params", next(iter(tensors.values())))]
    else:
        raise ValueError(f"it holds {', '.join(sorted(tensors)[:3])}, and no vectors of one token")
    shaped = [one[None] if one.dim() == 1 else one for one in found]
    if any(one.dim() != 2 or not len(one) or not one.is_floating_point() for one in shaped):
        raise ValueError(f"it holds no vectors, but {' and '.join(str(tuple(one.shape)) for one in found)}")
    if len({len(one) for one in shaped}) > 1:
        raise ValueError("it holds more vectors for one text encoder than for the other")
    return shaped


def _and(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
