"""The prompt language of the AUTOMATIC1111 web UI: weights, `BREAK` and LoRA tags.

What is read here means what it means there. How a prompt changes between steps, and `AND`, is in `webui_schedules`.
"""

import itertools
import re
from collections.abc import Iterator

from storage.spec import webui_schedules

#: What `(…)` multiplies by, and `[…]` divides by.
_STEP = 1.1
#: Of a text, either way: multiplied by a hundred thousand, an embedding is beyond half precision, and the picture NaN.
MOST_WEIGHT = 10_000
#: Escaped characters, a weight that closes a parenthesis, brackets, and the text between.
_TOKEN = re.compile(r"\\[()\[\]\\]?|:\s*([-+]?[.\d]+)\s*\)|[()\[\]:]|[^\\()\[\]:]+", re.DOTALL)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
#: How a `BREAK` is told from the word: by a weight that brackets around it change.
_BREAK_WEIGHT = -1.0
_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*")
_COMMENT = re.compile(r"[^\S\n]*#[^\n]*")
#: LyCORIS files are LoRAs of another make, and the web UI takes either word.
_LORA_WORDS = ("lora", "lyco")
_LORA_FORM = "<lora:NAME:WEIGHT>"

#: What looks like the web UI's weights: `(word:1.3)`, `((word))`, `[word]`.
_LOOKS_WEIGHTED = re.compile(
    r"(?<!\\)\((?:[^()\\]|\\.)*:\s*[-+]?[.\d]+\s*\)|(?<!\\)\(\s*\((?:[^()\\]|\\.)+\)\s*\)|(?<!\\)\[[^\[\]]+\]|\bBREAK\b"
)
_LOOKS_LIKE_NETWORK = re.compile(rf"<(?:{'|'.join((*_LORA_WORDS, 'hypernet'))}):[^>]+>")
#: In a prompt that is all in capitals it is a word.
_LOOKS_COMPOSED = re.compile(r"\bAND\b(?=.*[a-z])|[a-z].*\bAND\b", re.DOTALL)

#: A stretch of text and its weight.
Piece = tuple[str, float]


def parse(prompt: str) -> list[list[Piece]]:
    """Return the pieces of a text that does not change, those of each section between `BREAK`s by themselves.

    Brackets that close nothing are letters; brackets that are never closed reach to the end. A `BREAK` within brackets
    is a word there, of a negative weight. Raises ValueError for a weight that is no number.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for token in _TOKEN.finditer(prompt):
        text, weight = token[0], token[1]
        if text.startswith("\\"):
            # A backslash before a letter that is no bracket is dropped there, too.
            pieces.append((text[1:], 1.0))
        elif text in opened:
            opened[text].append(len(pieces))
        elif weight is not None and opened["("]:
            close("(", _weight(weight))
        elif text == ")" and opened["("]:
            close("(", _STEP)
        elif text == "]" and opened["["]:
            close("[", 1 / _STEP)
        else:
            first, *rest = _BREAK.split(text)
            pieces.append((first, 1.0))
            for part in rest:
                pieces += [("BREAK", _BREAK_WEIGHT), (part, 1.0)]
    while opened["("]:
        close("(", _STEP)
    while opened["["]:
        close("[", 1 / _STEP)
    return _sections(pieces)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the weight {text!r} is not a number") from None


def _sections(pieces: list[Piece]) -> list[list[Piece]]:
    """Join neighbours of one weight, which are read as one text, and split pieces at `BREAK`."""
    sections: list[list[Piece]] = [[]]
    for weight, run in itertools.groupby(pieces, key=lambda piece: piece[1]):
        text = "".join(text for text, _ in run)
        if (text, weight) == ("BREAK", _BREAK_WEIGHT):
            sections.append([])
        elif text:
            sections[-1].append((text, weight))
    return sections


def is_plain(prompt: str) -> bool:
    """Return whether a prompt means its own letters and nothing else."""
    return not prompt or (parse(prompt) == [[(prompt, 1.0)]] and webui_schedules.is_one(prompt))


def check(prompt: str, *, steps: int = 1, negative: bool = False) -> None:
    """Raise ValueError for what in a prompt, drawn in so many steps, cannot be read or would not be done."""
    if found := _NETWORK.search(prompt):
        raise ValueError(
            f"{found[0][:60]!r} is not switched on from here; name it in the prompt, or in the field loras"
        )
    composed = [(prompt, 1.0)] if negative else webui_schedules.prompts(prompt)
    if len(composed) > webui_schedules.MOST_PROMPTS:
        raise ValueError(f"AND puts {len(composed)} prompts together; the most is {webui_schedules.MOST_PROMPTS}")
    # By samplers that call the model twice in each step, there are twice as many.
    texts = [text for part, _ in composed for text in webui_schedules.texts(part, 2 * steps)]
    if len(texts) > webui_schedules.MOST_TEXTS or sum(map(len, texts)) > webui_schedules.MOST_CHARACTERS:
        raise ValueError(
            f"its words change {len(texts)} times in {steps} steps; at most {webui_schedules.MOST_TEXTS} different "
            f"texts, of {webui_schedules.MOST_CHARACTERS} characters together, can be drawn"
        )
    weights = [weight for _, weight in composed]
    weights += [weight for text in texts for section in parse(text) for _, weight in section]
    # Not the largest of them: infinity times 0 is NaN, which is neither.
    if (beyond := next((weight for weight in weights if not abs(weight) <= MOST_WEIGHT), None)) is not None:
        raise ValueError(f"its weights come to {beyond:g}; of more than {MOST_WEIGHT:,} there is no picture")


def check_composition(prompt: str, *, guidance_scale: float, guess_mode: bool) -> None:
    """Raise ValueError where prompts that `AND` puts together could not all steer."""
    if len(webui_schedules.prompts(prompt)) == 1:
        return
    if guidance_scale <= 1:
        raise ValueError(
            f"prompts put together by AND steer by guidance; give a guidance_scale above 1 (given: {guidance_scale:g})"
        )
    if guess_mode:
        raise ValueError("prompts put together by AND cannot be combined with guess_mode")


def without_comments(prompt: str) -> str:
    """Return a prompt without what stands from a `#` to the end of its line, which the web UI does not draw."""
    return _COMMENT.sub("", prompt).strip() if "#" in prompt else prompt


def take_loras(prompt: str) -> tuple[str, dict[str, float]]:
    """Return a prompt without its LoRA tags, and the scales of the LoRAs that they name.

    Raises ValueError for a tag that is not understood or stands in what changes, and for one LoRA named twice.
    """
    scales: dict[str, float] = {}
    for found in _NETWORK.finditer(prompt):
        if found[1] not in _LORA_WORDS:
            raise ValueError(f"{found[0][:60]!r}: only {_LORA_FORM} is supported")
        name, scale = _lora(found[0], found[2])
        if name in scales:
            raise ValueError(f"the LoRA {name!r} is named twice; give it one weight")
        scales[name] = scale
    if scales and "[" in prompt:
        _check_unchanging(prompt)
    return (_NETWORK.sub("", prompt).strip(), scales) if scales else (prompt, {})


def _check_unchanging(prompt: str) -> None:
    """Raise ValueError for a tag that is in some of a prompt's texts only: the web UI switches it on for all steps."""
    # A character that no prompt has.
    marked = _NETWORK.sub("\0", prompt)
    for part, _ in webui_schedules.prompts(marked):
        if any(text.count("\0") < part.count("\0") for text in webui_schedules.texts(part, 2)):
            raise ValueError(f"{_LORA_FORM} is on for all steps; put it outside of [one:other:0.5] and [one|other]")


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
            f"{name}: (word:1.3), ((word)), [word], [one:other:0.5], [one|other] and BREAK of the web UI are drawn as "
            "words here; prompt_weighting webui reads them"
        )
    if name == "prompt" and "AND" in prompt and _LOOKS_COMPOSED.search(prompt):
        yield f"{name}: AND of the web UI is drawn as a word here; prompt_weighting webui reads it"
    if "<" in prompt and _LOOKS_LIKE_NETWORK.search(prompt):
        yield f"{name}: {_LORA_FORM} of the web UI is drawn as words here; the field loras switches a LoRA on"
