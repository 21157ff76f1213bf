"""Prompts in Compel's language: what of it the farm can do, checked where Compel itself, which needs torch, is not.

What Compel accepts and does not do, or draws as words, is refused by name.
"""

import math
import re

from storage.spec.webui_prompts import MOST_WEIGHT

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_PARENTHESIS = re.compile(r"[()]")
#: What stands behind a closed group without a space: an operator and its arguments.
_OPERATOR = re.compile(r"""[)"](\s*)\.(\w+)\(([^()]*)""")
_SWAP = re.compile(r"\.swap\s*\(")
_LORA = re.compile(r"\b(?:with|use)Lora\s*\(")
_SIGNED = re.compile(r"""[)"]([-+]+)(\d*\.?\d+)""")
_WHOLE = re.compile(r"\(.*\)\s*\.(?:and|add|blend)\([^()]*\)", re.DOTALL)
#: A weight that goes on as something else: `(red)1,2`, `(red)2x`.
_TORN = re.compile(r"""[)"](\d*\.?\d+)(,\d|[^\W\d_])""")
#: What makes Compel draw a weighted group as letters, its parentheses and weight included.
_UNREADABLE = re.compile(r"""(?<![^\s,(])[-+]+(?=[\s,)]|$)|=|"(?=[^"]*$)""")
_QUOTED = re.compile(r""""([^"]*)"(?=[-+.\d])""")
#: The weights that stand behind a group or a word: numbers, or a sign for each factor of 1.1 or 0.9.
_WEIGHTS = re.compile(r"""(?<=[)"])\d*\.?\d+|(?<=[^\s,(])\+{2,}""")
_STEP = 1.1
_OPERATORS = ("and", "add", "blend", "attend")


def check(prompt: str) -> None:
    """Raise ValueError for what cannot be read, or would not be done."""
    # `\(` and `\)` are letters; places stay what they are.
    plain = _ESCAPED.sub("__", prompt)
    _check_parentheses(plain)
    if _SWAP.search(plain):
        raise ValueError(".swap() changes nothing in these pipelines; write the words that are meant, or use .blend()")
    if _LORA.search(plain):
        raise ValueError("withLora() changes nothing here; name LoRAs in the field `loras`")
    if signed := _SIGNED.search(plain):
        raise ValueError(
            f"{signed[1]}{signed[2]} at character {signed.start() + 2}: weights have no sign; write {signed[2]} "
            "(below 1 for less), or put the words into the negative prompt"
        )
    if torn := _TORN.search(plain):
        raise ValueError(
            f"{torn[1]}{torn[2]} at character {torn.start() + 2} is read as the weight {torn[1]} and more words; "
            "write the weight with a point (1.2) and a space behind it"
        )
    for found in _WEIGHTS.finditer(plain):
        _check_weight(len(found[0]) * math.log(_STEP) if "+" in found[0] else _log(found[0]), found[0])
    for quoted in _QUOTED.finditer(plain):
        _check_readable(quoted[1], quoted.start())
    for found in _OPERATOR.finditer(plain):
        if found[2] in _OPERATORS:
            _check_operator(found[2], found[3], plain)
        elif not found[1]:
            raise ValueError(
                f"Compel has no .{found[2]}(); there are .and(), .blend() and .attend(); write a space behind the dot "
                "where these are words"
            )


def _check_weight(logarithm: float, written: str) -> None:
    if logarithm > math.log(MOST_WEIGHT):
        raise ValueError(f"the weight {written[:20]} is more than {MOST_WEIGHT:,}, of which there is no picture")


def _log(number: str) -> float:
    return math.log(float(number) or 1.0)


def check_blend(weights: list[float]) -> None:
    """Raise ValueError for weights that cannot be normalized."""
    if abs(sum(weights)) < 1e-6:
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise ValueError(f"the weights of .blend({shown}) add up to 0 and cannot be normalized; add no_normalize")


def _check_operator(name: str, arguments: str, plain: str) -> None:
    numbers = [float(number) for number in re.findall(r"(?<![\w.])-?\d*\.?\d+(?![\w.])", arguments)]
    for number in numbers:
        _check_weight(math.log(abs(number) or 1.0), f"{number:g}")
    if name in ("and", "add", "blend"):
        if not _WHOLE.fullmatch(plain.strip()):
            raise ValueError(f'.{name}() must be the whole prompt: ("one", "another").{name}(1, 1)')
        if name == "blend" and numbers and "no_normalize" not in arguments:
            check_blend(numbers)
    elif any(number < 0 for number in numbers):
        raise ValueError(f".attend({arguments.strip()}): weights cannot be negative")


def _check_parentheses(plain: str) -> None:
    opened: list[int] = []
    for found in _PARENTHESIS.finditer(plain):
        if found[0] == "(":
            opened.append(found.start())
        elif opened:
            start = opened.pop()
            if plain[found.end() : found.end() + 1] in tuple("+-.0123456789"):
                _check_readable(plain[start + 1 : found.start()], start)
        else:
            raise ValueError(f"')' at character {found.start() + 1} closes nothing; write \\) for the letter")
    if opened:
        raise ValueError(f"'(' at character {opened[-1] + 1} is never closed; write \\( for the letter")


def _check_readable(group: str, start: int) -> None:
    """Raise ValueError for a weighted group, its content given, that Compel would draw as letters."""
    if found := _UNREADABLE.search(re.sub(r'"[^"]*"', lambda quoted: "_" * len(quoted[0]), group)):
        raise ValueError(
            f"the weight of the group at character {start + 1} would be drawn as letters: Compel does not read "
            f"{found[0]!r} standing alone in a group; put a word in its place"
        )
