"""Words that a model does not read, because its text encoder takes so many tokens of a prompt and no more."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from storage.errors import BadSpecification
from storage.spec.clip_tokens import ClipTokens, clip_tokens_of, least_pieces
from storage.spec.embedding_words import WordCounter
from storage.spec.guidance import is_guided
from storage.spec.model_files import own_configuration
from storage.spec.models import DiffusersModel, Embedding, Model
from storage.spec.picture import Spec
from storage.spec.profiles import profile_of
from storage.spec.tokenizer_files import tokenizer_room

#: So much of the text as shows the place.
_SHOWN = 40
_WORD = re.compile(r"\S+")
#: Pipelines that read prompts with CLIP alone, and its room: for machines that have no tokenizer's files.
_WITH_CLIP = re.compile(r"StableDiffusion(?!3)")
_CLIP_ROOM = 75
_NONE: Mapping[str, Embedding] = MappingProxyType({})
_WAY_OUT = "long_prompts chunk, or prompt_weighting, where the model supports it, takes prompts of any length"


@dataclass(frozen=True, kw_only=True)
class Unread:
    """The end of a prompt that a model does not read."""

    field: str
    model: str
    #: How many tokens are read, and how many there are.
    room: int
    tokens: int
    #: The first character that is not read, from 1, and the text from there.
    character: int
    text: str
    #: Whether there may be more tokens: each word is one at least.
    at_least: bool = False
    #: Whether the pipeline then draws nothing at all.
    fatal: bool = False

    @property
    def words(self) -> str:
        """Say which words."""
        shown = self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 1] + "…"
        tokens = f"{'more than ' if self.at_least else ''}{self.tokens}"
        place = f"{self.character} on{', or earlier' if self.at_least else ''}"
        if self.fatal:
            return (
                f"{self.field}: has {tokens} tokens, and the model {self.model} draws none of more than {self.room}; "
                f"shorten it from character {place}: {shown!r}"
            )
        return (
            f"{self.field}: the model {self.model} reads {self.room} of its {tokens} tokens; "
            f"ignored from character {place}: {shown!r} ({_WAY_OUT})"
        )

    @property
    def in_general(self) -> str:
        """Say so without the place, in the same words for all prompts."""
        return (
            f"{self.field}: the model {self.model} reads the first {self.room} tokens and ignores the rest ({_WAY_OUT})"
        )


def room_of(pipeline: str | None) -> int | None:
    """Return how many tokens of a prompt the longest text encoder of a pipeline reads; None for CLIP's, or unknown."""
    profile = profile_of(pipeline)
    return profile.room if profile else None


def readable_fields(spec: Spec, pipeline: str | None) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the prompts that are read up to a limit; in chunks they are read whole."""
    if spec.prompt_weighting is None and spec.prompt_embeds is None and spec.long_prompts != "chunk":
        yield "prompt", spec.prompt
        if is_guided(spec, pipeline):
            yield "negative_prompt", spec.negative_prompt


def pooled_remarks(spec: Spec, model: DiffusersModel, embeddings: Mapping[str, Embedding] = _NONE) -> Iterator[str]:
    """Yield a remark where SDXL's pooled embeddings are of the beginning of a prompt alone that is read whole."""
    if (spec.prompt_weighting is None and spec.long_prompts != "chunk") or not (own := own_configuration(model)):
        return
    if not own.pipeline.startswith("StableDiffusionXL"):
        return
    words = WordCounter(model, model.alias, embeddings)
    for field, text in (("prompt", spec.prompt), ("negative_prompt", spec.negative_prompt)):
        # Signs of weights are counted as words: a prompt just short of the limit is told of, too.
        if any(words.count(tokenizer, text)[1] is not None for tokenizer in clip_tokens_of(model)):
            yield (
                f"{field}: of a long prompt the model {model.alias} reads all words, but its pooled embeddings, "
                f"which steer the whole picture, are made of the first {clip_tokens_of(model)[0].room} tokens"
            )


def unread(spec: Spec, model: Model, embeddings: Mapping[str, Embedding] = _NONE) -> Iterator[Unread]:
    """Yield what a model does not read of a picture's prompts, as far as its files are on this machine.

    Args:
        embeddings: the registry's: a word of a prompt may stand for several vectors, each as long as a token.
    """
    reader = PromptReader(model, embeddings)
    for field, text in readable_fields(spec, reader.pipeline):
        yield from reader.unread(field, text)


class PromptReader:
    """What a model's text encoders read, as its files say now."""

    def __init__(self, model: Model, embeddings: Mapping[str, Embedding] = _NONE) -> None:
        self._alias = model.alias
        #: The class of its pipeline, if it is known here.
        self.pipeline: str | None = None
        self._room: int | None = None
        #: Where the stretches of a text begin each of which is a token at least.
        self._pieces: Callable[[str], Sequence[int]] = _words
        self._tokenizers: tuple[ClipTokens, ...] = ()
        if isinstance(model, DiffusersModel):
            own = own_configuration(model)
            self.pipeline = own.pipeline if own else model.pipeline
            # Where CLIP's are the only tokenizers these count: a model of Stable Diffusion 3, too, may come without T5.
            self._tokenizers = clip_tokens_of(model)
            self._room = None if self._tokenizers else _room_here(model, self.pipeline)
            if not self._tokenizers and _WITH_CLIP.match(self.pipeline or ""):
                self._room, self._pieces = _CLIP_ROOM, least_pieces
        rooms = [tokenizer.room for tokenizer in self._tokenizers] if self._room is None else [self._room]
        # Of a letter there is one token at most: shorter texts of ASCII need no counting.
        self._surely_read = min(rooms, default=sys.maxsize)
        # Of pipelines with other encoders none takes any.
        known = embeddings if isinstance(model, DiffusersModel) and self._tokenizers else _NONE
        self._words = WordCounter(model, model.alias, known) if isinstance(model, DiffusersModel) else None

    def surely_reads(self, text: str) -> bool:
        """Return whether a text is so short that all of it is read, whatever its words."""
        return len(text) <= self._surely_read and text.isascii() and not self._names_any(text)

    def unread(self, field: str, text: str) -> Iterator[Unread]:
        """Yield what is not read of a text, if there is such."""
        if self.surely_reads(text):
            return
        named = self._names_any(text)
        if self._room is not None:
            yield from self._certainly_unread(field, text, self._room)
            return
        for tokenizer in self._tokenizers:
            tokens, cut = self._words.count(tokenizer, text) if self._words and named else tokenizer.count(text)
            if cut is not None:
                yield Unread(
                    field=field,
                    model=self._alias,
                    room=tokenizer.room,
                    tokens=tokens,
                    character=cut + 1,
                    text=text[cut:],
                )
                break

    def _names_any(self, text: str) -> bool:
        return self._words is not None and self._words.names_any(text)

    def _certainly_unread(self, field: str, text: str, room: int) -> Iterator[Unread]:
        """Yield what is not read whatever a tokenizer makes of a word; a worker, which has it, says so to the token."""
        starts = self._pieces(text) if len(text) > room else ()
        if len(starts) > room:
            cut = starts[room]
            yield Unread(
                field=field,
                model=self._alias,
                room=room,
                tokens=len(starts),
                character=cut + 1,
                text=text[cut:],
                at_least=True,
                fatal=fails_on_long_prompts(self.pipeline),
            )


def check_length(spec: Spec, model: Model, embeddings: Mapping[str, Embedding] = _NONE) -> None:
    """Raise BadSpecification for a prompt that a model does not read to its end, where such are to be refused."""
    if spec.long_prompts == "refuse":
        for end in unread(spec, model, embeddings):
            raise BadSpecification(end.words)


def fails_on_long_prompts(pipeline: str | None) -> bool:
    """Tell whether a pipeline draws nothing for a prompt that it does not read to its end."""
    profile = profile_of(pipeline)
    return profile is not None and profile.beyond == "error"


def _room_here(model: DiffusersModel, pipeline: str | None) -> int | None:
    """Return how many tokens are read at most, by the profile or by the tokenizer's file, if that is here."""
    profile = profile_of(pipeline)
    return tokenizer_room(model) if profile and profile.beyond == "tokenizer" else room_of(pipeline)


def _words(text: str) -> Sequence[int]:
    return [word.start() for word in _WORD.finditer(text)]
