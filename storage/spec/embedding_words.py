"""Textual inversions as prompts name them: where they are in a text, how many vectors they stand for, what they hide.

Known without torch from the headers of their files, where these are on this machine; a worker reads all of a file, and
has the last word.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from storage.spec.clip_tokens import ClipTokens, merges_file
from storage.spec.model_files import CONFIGURATIONS, configuration_folder, named_folder, remembered
from storage.spec.models import Embedding, Weights
from storage.spec.safetensors_header import read_header

#: What files for SDXL call the vectors of its two encoders.
OF_TWO = ("clip_l", "clip_g")
_ENCODERS = ("text_encoder", "text_encoder_2")
#: Of CLIP's own vocabulary: what is one token of it is a word that people write.
_CLIP_ROOM = 75


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """What a file holds."""

    #: How many tokens its word stands for.
    number: int
    #: Of each vector, for each text encoder.
    widths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a text names an embedding."""

    alias: str
    start: int
    end: int


def word(alias: str) -> re.Pattern[str]:
    """Return what finds an embedding in a text: whole words alone, in whatever case."""
    return _word_of((alias,))


def for_model(entries: Mapping[str, Embedding], model: str) -> dict[str, Embedding]:
    """Return those that may be used with a model, the longest names first: one may be within another."""
    mine = ((alias, one) for alias, one in entries.items() if not one.models or model in one.models)
    return dict(sorted(mine, key=lambda item: (-len(item[0]), item[0])))


def places(text: str, aliases: Sequence[str]) -> Iterator[Place]:
    """Yield where a text names any of these, from left to right."""
    if not aliases:
        return
    known = {alias.lower(): alias for alias in aliases}
    for found in _word_of(tuple(aliases)).finditer(text):
        yield Place(alias=known[found[0].lower()], start=found.start(), end=found.end())


@lru_cache(maxsize=512)
def _word_of(aliases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, aliases))})(?![\w-])", re.IGNORECASE)


def vectors_of(entry: Embedding) -> Vectors | None:
    """Return what an embedding's file holds; None where it is not here, or holds something else."""
    path = named_folder(entry)
    return None if path is None else _vectors_in(path, entry.weight_name, remembered())


@lru_cache(maxsize=1024)
def _vectors_in(path: Path, weight_name: str | None, _when: int) -> Vectors | None:
    try:
        if path.is_dir():
            [path] = [path / weight_name] if weight_name else path.glob("*.safetensors")
        shapes = {name: tuple(tensor.shape) for name, tensor in read_header(path).tensors.items()}
    except (OSError, ValueError):
        return None
    if set(shapes) == set(OF_TWO):
        found = [shapes[name] for name in OF_TWO]
    elif "emb_params" in shapes or len(shapes) == 1:
        found = [shapes.get("emb_params", next(iter(shapes.values())))]
    else:
        return None
    shaped = [(1, *shape) if len(shape) == 1 else shape for shape in found]
    if any(len(shape) != 2 for shape in shaped) or len({shape[0] for shape in shaped}) > 1:
        return None
    return Vectors(number=shaped[0][0], widths=tuple(shape[1] for shape in shaped))


def widths_of(model: Weights) -> tuple[int, ...] | None:
    """Return how wide the vectors of a model's text encoders are; None where its files are not here."""
    return _widths(model.source, model.revision, model.config, remembered())


@lru_cache(maxsize=256)
def _widths(source: str, revision: str | None, config: str | None, _when: int) -> tuple[int, ...] | None:
    try:
        folder = configuration_folder(Weights(source=source, revision=revision, config=config))
        files = [folder / name / "config.json" for name in _ENCODERS if (folder / name).is_dir()]
        return tuple(int(json.loads(file.read_text(encoding="utf-8"))["hidden_size"]) for file in files) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class WordCounter:
    """Counts the tokens of texts in which words stand for vectors, as one model reads them."""

    def __init__(self, model: Weights, alias: str, entries: Mapping[str, Embedding]) -> None:
        widths = widths_of(model) if entries else None
        held = {name: vectors_of(one) for name, one in for_model(entries, alias).items()}
        #: How many vectors each word stands for; what does not fit the model is read as words.
        self._numbers = {
            name: one.number for name, one in held.items() if one is not None and widths in (None, one.widths)
        }
        self._aliases = tuple(self._numbers)

    def names_any(self, text: str) -> bool:
        return bool(self._aliases) and _word_of(self._aliases).search(text) is not None

    def count(self, tokenizer: ClipTokens, text: str) -> tuple[int, int | None]:
        """Return what `ClipTokens.count` does."""
        if not self._aliases:
            return tokenizer.count(text)
        total, at, cut = 0, 0, None
        for place in (*places(text, self._aliases), None):
            end = len(text) if place is None else place.start
            tokens, beyond = tokenizer.count(text[at:end], tokenizer.room - total)
            total += tokens
            cut = at + beyond if cut is None and beyond is not None else cut
            if place is not None:
                total += self._numbers[place.alias]
                cut = place.start if cut is None and total > tokenizer.room else cut
                at = place.end
        return total, cut


def clash_remarks(field: str, text: str, aliases: Sequence[str]) -> Iterator[str]:
    """Yield a remark on each word of a text that people write as a word, and that is an embedding here."""
    for alias in dict.fromkeys(place.alias for place in places(text, aliases)):
        if clash := clash_of(alias):
            yield f"{field}: {clash}"


def clash_of(alias: str) -> str | None:
    """Say that an embedding hides a word that people write, if it does."""
    if not _is_of_clip(alias):
        return None
    return f"{alias!r} is read as the embedding of that name, and no more as the word; rename its entry to have both"


@lru_cache(maxsize=1024)
def _is_of_clip(alias: str) -> bool:
    clip = _clip()
    return clip is not None and clip.count(alias) == (1, None)


@lru_cache(maxsize=1)
def _clip() -> ClipTokens | None:
    """Return CLIP's own vocabulary, if it is here."""
    try:
        lines = merges_file(CONFIGURATIONS / "clip").read_text(encoding="utf-8").split("\n")
    except OSError:
        return None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return ClipTokens([(pair[0], pair[1]) for pair in pairs], _CLIP_ROOM)
