"""Remarks on what looks like the web UI's language in a prompt that is read in it, and means something else there."""

import re
from collections.abc import Iterator
from contextlib import suppress

from storage.spec import webui_schedules
from storage.spec.webui_prompts import parse

#: Brackets as in `[one:other:0.5]`, `[a:b:c:0.5]`, `[one:other:0,5]` and `[one|other]`.
_LOOKS_CHANGING = re.compile(r"(?<!\\)\[[^\[\]|]*:\s*[-+]?[\d.,]+\s*%?\s*\]|(?<!\\)\[[^\[\]]*\|[^\[\]]*\]")
_FORMS = "[one:other:0.5] and [one|other]"
_AND = re.compile(r"\bAND\b")


def remarks(name: str, prompt: str) -> Iterator[str]:
    """Yield remarks on a prompt, or a negative one, of this name; the same words for all prompts."""
    if "[" in prompt:
        yield from _on_changes(name, prompt)
    if "BREAK" in prompt and any(_has_weighted_break(text) for text in _some_texts(prompt)):
        yield f"{name}: BREAK within brackets is drawn as a word, as in the web UI; put it outside of them"
    if name != "prompt":
        if "AND" in prompt and _AND.search(prompt):
            yield f"{name}: AND is drawn as a word, as in the web UI, where it puts together no negative prompts"
    elif ":" in prompt and "AND" not in prompt and not webui_schedules.is_one(prompt):
        yield (
            f"{name}: a number behind the last colon, such as :1.2, is the weight of the whole prompt, as in the web "
            "UI; where it is meant to be drawn, put a comma behind it"
        )


def weight_remarks(prompt: str, guidance_scale: float) -> Iterator[str]:
    """Yield a remark on a weight of the whole prompt that does nothing."""
    if guidance_scale <= 1 and not webui_schedules.is_one(prompt):
        yield "prompt: the weight behind its last colon steers by guidance, which is off"


def _on_changes(name: str, prompt: str) -> Iterator[str]:
    if not webui_schedules.is_readable(prompt):
        if _LOOKS_CHANGING.search(prompt):
            yield (
                f"{name}: {_FORMS} are drawn as words, as in the web UI, where there is a | outside of brackets or a "
                "backslash before nothing; write \\| for the letter"
            )
    elif any(_LOOKS_CHANGING.search(text) for text in _some_texts(prompt)):
        yield (
            f"{name}: brackets that look like {_FORMS} and are not quite so are drawn as words, as in the web UI; a "
            "step or share of them stands behind the last of one or two colons, with a point"
        )


def _some_texts(prompt: str) -> list[str]:
    """Return the texts of a prompt, as many as change within a few steps."""
    return list(dict.fromkeys(text for _, text in webui_schedules.schedule(prompt, 4)))


def _has_weighted_break(text: str) -> bool:
    with suppress(ValueError):
        return any("BREAK" in words and weight < 0 for section in parse(text) for words, weight in section)
    return False
