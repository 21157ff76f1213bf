"""Words that a model does not read, because its text encoder takes so many tokens of a prompt and no more."""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.spec.clip_tokens import clip_tokens_of
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import Spec

#: So much of the text as shows the place.
_SHOWN = 40
_WAY_OUT = "prompt_weighting, where the model supports it, takes prompts of any length"


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

    @property
    def words(self) -> str:
        """Say which words."""
        shown = self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 1] + "…"
        return (
            f"{self.field}: the model {self.model} reads {self.room} of its {self.tokens} tokens; ignored from "
            f"character {self.character} on: {shown!r} ({_WAY_OUT})"
        )

    @property
    def in_general(self) -> str:
        """Say so without the place, in the same words for all prompts."""
        return (
            f"{self.field}: the model {self.model} reads the first {self.room} tokens and ignores the rest ({_WAY_OUT})"
        )


def readable_fields(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the prompts that are read up to a limit; weighted ones are read whole."""
    if spec.prompt_weighting is None and spec.prompt_embeds is None:
        yield "prompt", spec.prompt
        if spec.guidance_scale > 1:
            yield "negative_prompt", spec.negative_prompt


def unread(spec: Spec, model: Model) -> Iterator[Unread]:
    """Yield what a model does not read of a picture's prompts, as far as its files are on this machine."""
    if not isinstance(model, DiffusersModel):
        return
    for field, text in readable_fields(spec):
        for tokenizer in clip_tokens_of(model):
            tokens, cut = tokenizer.count(text)
            if cut is not None:
                yield Unread(
                    field=field,
                    model=model.alias,
                    room=tokenizer.room,
                    tokens=tokens,
                    character=cut + 1,
                    text=text[cut:],
                )
                break
