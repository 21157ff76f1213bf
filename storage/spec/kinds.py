"""Pictures that differ in prompt and seed alone: what holds for one of them is worked out once for all.

A manifest of a million rows asks for a handful of such kinds, and to check each row as if it were the only one is most
of what accepting it costs.
"""

import re
from json.encoder import encode_basestring

from storage.spec.copies import copied
from storage.spec.picture import MAX_PROMPT_CHARACTERS, MAX_SEED, Spec

#: Halves of characters, which no database takes.
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_plain_text(text: str) -> bool:
    """Return whether all of a text is whole characters."""
    return text.isascii() or _SURROGATE.search(text) is None


def is_plain(prompt: object, seed: object) -> bool:
    """Return whether a picture of a kind may have these; if not, its specification's own checks say why."""
    return (
        type(prompt) is str
        and len(prompt) <= MAX_PROMPT_CHARACTERS
        and prompt != ""
        and not prompt.isspace()
        and is_plain_text(prompt)
        and "\0" not in prompt
        and type(seed) is int
        and 0 <= seed <= MAX_SEED
    )


class SpecKind:
    """What specifications have in common that differ in prompt and seed alone."""

    def __init__(self, first: Spec) -> None:
        """Take one of them; it must depend on its prompt no further than `is_plain` looks (`has_kind`)."""
        self.first = first
        self.batch_key, self.loop_key = first.batch_key(), first.loop_key()
        # Of what is written around the prompt and the seed, which JSON writes in the order of their names.
        before, _, rest = copied(first, {"prompt": "\0", "seed": 0}).canonical().partition('"prompt":"\\u0000"')
        between, _, after = rest.rpartition('"seed":0')
        self._before, self._between, self._after = f'{before}"prompt":', f'{between}"seed":', after

    def spec(self, prompt: str, seed: int) -> Spec:
        """Return the specification with a prompt and seed that are plain."""
        return copied(self.first, {"prompt": prompt, "seed": seed})

    def canonical(self, spec: Spec) -> str:
        """Write one of these, as `Spec.canonical` does."""
        return f"{self._before}{encode_basestring(spec.prompt)}{self._between}{spec.seed}{self._after}"


def has_kind(spec: Spec) -> bool:
    """Return whether a specification's checks look at its prompt no further than `is_plain` does."""
    looked_at = spec.prompt_weighting is not None or spec.long_prompts in ("chunk", "refuse")
    return not looked_at and spec.prompt_embeds is None and is_plain(spec.prompt, spec.seed)
