"""Words that a pipeline does not read of a prompt, told to the token by its own tokenizers."""

import re
from collections.abc import Iterator
from typing import Any

from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from transformers import CLIPTokenizer

from storage.spec.picture import Spec
from storage.spec.profiles import Profile
from storage.spec.prompt_length import Unread, fails_on_long_prompts, readable_fields
from storage.spec.tokenizer_files import NO_LIMIT
from worker.rendering.call import profile_of_pipeline
from worker.rendering.embeddings import EmbeddingWords

_WORD = re.compile(r"\S+")


def unread_words(pipeline: Any, spec: Spec, model: str, embeddings: EmbeddingWords | None = None) -> Iterator[Unread]:
    """Yield what a pipeline does not read of a picture's prompts, at most one for each field.

    Of several encoders' tokenizers the one that reads most counts, but for two of CLIP, which must both read a word.
    """
    found: dict[str, Unread] = {}
    for field, said in readable_fields(spec, type(pipeline).__name__):
        text = embeddings.put_into(said, spec.model) if embeddings else said
        for tokenizer, room in _rooms(pipeline, field, spec.prompt):
            if (beyond := _unread(tokenizer, text, room)) is not None:
                tokens, cut = beyond
                cut = embeddings.word_start(text, cut) if embeddings else cut
                read, rest = (embeddings.taken_out(part) if embeddings else part for part in (text[:cut], text[cut:]))
                found[field] = Unread(
                    field=field,
                    model=model,
                    room=room,
                    tokens=tokens,
                    character=len(read) + 1,
                    text=rest,
                    fatal=fails_on_long_prompts(type(pipeline).__name__),
                )
    yield from found.values()


def _rooms(pipeline: Any, field: str, prompt: str) -> Iterator[tuple[Any, int]]:
    """Yield the tokenizers that count, each with how many tokens of a field its encoder reads beside this prompt."""
    parts = {
        # Processors, which language models that see pictures have, too, hold a tokenizer.
        name: getattr(part, "tokenizer", part)
        for name, part in pipeline.components.items()
        if part and ("tokenizer" in name or name == "processor")
    }
    if all(isinstance(part, CLIPTokenizer) for part in parts.values()):
        # The text's start and end are marked.
        yield from ((part, part.model_max_length - 2) for part in parts.values())
        return
    profile = profile_of_pipeline(pipeline)
    # What CLIP does not read beside it is read all the same.
    longest = max(parts.items())[1]
    room = profile.room
    if profile.beyond == "tokenizer" and longest.model_max_length < NO_LIMIT:
        room = longest.model_max_length - len(longest("").input_ids)
    if room is None:
        return
    if profile.negative_room != "own" and field == "negative_prompt":
        room = _as_long_as_the_prompt(longest, prompt, room, in_eights=profile.negative_room == "in eights")
    yield longest, max(0, room - _beside(pipeline, longest, profile, field))


def _as_long_as_the_prompt(tokenizer: Any, prompt: str, room: int, *, in_eights: bool) -> int:
    """Return how many tokens of a negative prompt are read where it is cut at its prompt's."""
    marks = len(tokenizer("").input_ids)
    tokens = min(len(tokenizer(prompt.lower().strip(), verbose=False).input_ids), room + marks)
    return min(room, (-(-tokens // 8) * 8 if in_eights else tokens + 1) - marks)


def _beside(pipeline: Any, tokenizer: Any, profile: Profile, field: str) -> int:
    """Return how many tokens of the room are taken by what stands around a prompt."""
    if profile.template in ("chat", "thinking"):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": ""}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=profile.template == "thinking",
        )
        return len(tokenizer(text).input_ids)
    if profile.template == "formatted":
        return len(tokenizer(pipeline._format_prompt("")).input_ids)
    if profile.template == "flux2":
        said = format_input([""], system_message=pipeline.system_message)
        told = pipeline.tokenizer.apply_chat_template(
            said, add_generation_prompt=False, tokenize=True, return_dict=True
        )
        return len(told["input_ids"][0])
    if profile.template == "system":
        # Negative prompts have none; their start is marked.
        return len(tokenizer(f"{pipeline.system_prompt} <Prompt Start> " if field == "prompt" else "").input_ids)
    return 0


def _unread(tokenizer: Any, text: str, room: int) -> tuple[int, int] | None:
    """Return how many tokens a text has and the first character of the first word that is not read whole."""
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if len(read.input_ids) <= room:
        return None
    words = read.word_ids()
    if words[room] is not None and words[room] != words[0]:
        # Where the word begins, even if some of it is read.
        return len(read.input_ids), _past_spaces(text, read.offset_mapping[words.index(words[room])][0])
    # A tokenizer that does not split texts into words.
    first = _past_spaces(text, read.offset_mapping[room][0])
    begun = [word.start() for word in _WORD.finditer(text) if word.start() <= first]
    return len(read.input_ids), begun[-1] if begun else 0


def _past_spaces(text: str, start: int) -> int:
    """Return where a word begins: to language models, the space before it is part of it."""
    return len(text) - len(text[start:].lstrip())
