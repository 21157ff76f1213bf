"""The prompt language of the AUTOMATIC1111 web UI: weights, `BREAK` and LoRA tags.

What is read here means what it means there; the parts that the farm does not have (a prompt that changes between
steps, alternatives, `AND`) are refused by name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: What `(…)` multiplies by, and `[…]` divides by.
_STEP = 1.1
#: Escaped characters, a weight that closes a parenthesis, brackets, and the text between.
_TOKEN = re.compile(r"\\.?|:\s*([-+]?[.\d]+)\s*\)|[()\[\]:]|[^\\()\[\]:]+", re.DOTALL)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*")
#: LyCORIS files are LoRAs of another make, and the web UI takes either word.
_LORA_WORDS = ("lora", "lyco")
_LORA_FORM = "<lora:NAME:WEIGHT>"

#: What looks like the web UI's weights: `(word:1.3)`, `((word))`, `[word]`.
_LOOKS_WEIGHTED = re.compile(
    r"(?<!\\)\((?:[^()\\]|\\.)*:\s*[-+]?[.\d]+\s*\)|(?<!\\)\(\s*\((?:[^()\\]|\\.)+\)\s*\)|(?<!\\)\[[^\[\]]+\]|\bBREAK\b"
)
_LOOKS_LIKE_NETWORK = re.compile(rf"<(?:{'|'.join((*_LORA_WORDS, 'hypernet'))}):[^>]+>")

#: A stretch of text and its weight.
Piece = tuple[str, float]


def parse(prompt: str) -> list[list[Piece]]:
    """Return the pieces of a prompt, those of each section between `BREAK`s by themselves.

    Brackets that close nothing are letters; brackets that are never closed reach to the end. Raises ValueError for a
    weight that is no number.
    """
    pieces: list[list[str | float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for piece in pieces[opened[bracket].pop() :]:
            piece[1] = float(piece[1]) * factor

    for token in _TOKEN.finditer(prompt):
        text, weight = token[0], token[1]
        if text.startswith("\\"):
            # A backslash before a letter that is no bracket is dropped there, too.
            pieces.append([text[1:], 1.0])
        elif text in opened:
            opened[text].append(len(pieces))
        elif weight is not None and opened["("]:
            close("(", _weight(weight))
        elif text == ")" and opened["("]:
            close("(", _STEP)
        elif text == "]" and opened["["]:
            close("[", 1 / _STEP)
        else:
            pieces.append([text, 1.0])
    while opened["("]:
        close("(", _STEP)
    while opened["["]:
        close("[", 1 / _STEP)
    return _sections([(str(text), float(weight)) for text, weight in pieces])


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the weight {text!r} is not a number") from None


def _sections(pieces: list[Piece]) -> list[list[Piece]]:
    """Split pieces at `BREAK`, and join neighbours of one weight: they are read as one text."""
    sections: list[list[Piece]] = [[]]
    for text, weight in pieces:
        for number, part in enumerate(_BREAK.split(text)):
            if number:
                sections.append([])
            if sections[-1] and sections[-1][-1][1] == weight:
                sections[-1][-1] = (sections[-1][-1][0] + part, weight)
            elif part:
                sections[-1].append((part, weight))
    return sections


def is_plain(prompt: str) -> bool:
    """Return whether a prompt means its own letters and nothing else."""
    return not prompt or parse(prompt) == [[(prompt, 1.0)]]


def check(prompt: str) -> None:
    """Raise ValueError for what the web UI would do with a prompt and the farm cannot."""
    parse(prompt)
    if found := _NETWORK.search(prompt):
        raise ValueError(f"{found[0][:60]!r} is not switched on from within a prompt; name it in the field loras")
    if re.search(r"\bAND\b", prompt):
        raise ValueError("AND (several prompts in one picture) is not supported; write `and` for the word")
    for inside in _square_brackets(prompt):
        if inside.alternatives:
            raise ValueError(f"[{inside.text[:40]}]: alternating words are not supported")
        if inside.colons in (1, 2) and _NUMBER.fullmatch(inside.last):
            raise ValueError(f"[{inside.text[:40]}]: words that change between steps are not supported")


@dataclass
class _Brackets:
    """What stands between `[` and `]`, or `(` and `)`."""

    opener: str
    text: str = ""
    #: Behind its last colon.
    last: str = ""
    colons: int = 0
    alternatives: bool = False

    def read(self, text: str) -> None:
        self.text += text
        self.last += text


def _square_brackets(prompt: str) -> Iterator[_Brackets]:
    stack: list[_Brackets] = []
    for letter in re.findall(r"\\.|.", prompt, re.DOTALL):
        if letter in "([":
            stack.append(_Brackets(letter))
        elif letter in ")]" and stack and stack[-1].opener == {")": "(", "]": "["}[letter]:
            closed = stack.pop()
            if letter == "]":
                yield closed
            if stack:
                stack[-1].read(closed.opener + closed.text + letter)
        elif stack:
            stack[-1].read(letter)
            if letter == ":":
                stack[-1].colons += 1
                stack[-1].last = ""
            stack[-1].alternatives |= letter == "|"


def take_loras(prompt: str) -> tuple[str, dict[str, float]]:
    """Return a prompt without its LoRA tags, and the scales of the LoRAs that they name.

    Raises ValueError for a tag that is not understood, and for one LoRA named twice.
    """
    scales: dict[str, float] = {}
    for found in _NETWORK.finditer(prompt):
        if found[1] not in _LORA_WORDS:
            raise ValueError(f"{found[0][:60]!r}: only {_LORA_FORM} is supported")
        name, scale = _lora(found[0], found[2])
        if name in scales:
            raise ValueError(f"the LoRA {name!r} is named twice; give it one weight")
        scales[name] = scale
    return (_NETWORK.sub("", prompt).strip(), scales) if scales else (prompt, {})


def _lora(tag: str, arguments: str) -> tuple[str, float]:
    """Read `NAME`, `NAME:WEIGHT`, or the weights of the text encoder and of the UNet, which must be the same."""
    name, *rest = (part.strip() for part in arguments.split(":"))
    weights = dict(zip(("te", "unet", "dyn"), (part for part in rest if "=" not in part), strict=False))
    weights |= dict(part.split("=", 1) for part in rest if "=" in part)
    unknown = weights.keys() - {"te", "unet"}
    if unknown or len(rest) > len(weights):
        raise ValueError(f"{tag[:60]!r}: only {_LORA_FORM} is supported")
    numbers = {_number(tag, weight) for weight in weights.values()}
    if len(numbers) > 1 or (weights and "te" not in weights):
        raise ValueError(f"{tag[:60]!r}: one weight for text encoder and UNet is supported, not two")
    return name, numbers.pop() if numbers else 1.0


def _number(tag: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{tag[:60]!r}: the weight {text[:20]!r} is not a number")
    return float(text)


def remarks(name: str, prompt: str) -> Iterator[str]:
    """Yield remarks on the web UI's language in a prompt that is not read in it; the same words for all prompts."""
    # Most prompts have none of these letters, and a manifest has a million prompts.
    if ("(" in prompt or "[" in prompt or "BREAK" in prompt) and _LOOKS_WEIGHTED.search(prompt):
        yield (
            f"{name}: (word:1.3), ((word)), [word] and BREAK of the web UI are drawn as words here; "
            "prompt_weighting webui reads them"
        )
    if "<" in prompt and _LOOKS_LIKE_NETWORK.search(prompt):
        yield f"{name}: {_LORA_FORM} of the web UI is drawn as words here; the field loras switches a LoRA on"
