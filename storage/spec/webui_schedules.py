"""How a prompt in the AUTOMATIC1111 web UI's language changes between steps, and of which prompts it is composed.

`[a:b:10]` and `[a:b:0.5]` change from one text to another after a step, `[a|b]` with every step; `AND` stands between
prompts that steer the picture together, each with a weight. What is read here means what it means there, odd cases
included (its `prompt_parser.py`; a table in the tests has them).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

#: Escaped characters, signs, and the text between. A backslash that escapes nothing stands alone.
_TOKEN = re.compile(r"\\.|[()\[\]:|\\]|[^()\[\]:|\\]+")
_CLOSES = {")": "(", "]": "["}
_WHEN = re.compile(r"\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")
_AND = re.compile(r"\bAND\b")
#: The weight that ends a prompt.
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*\Z")
#: More are a mistake, and reading them would not end well.
_DEEPEST = 20
#: Texts of one picture, and their characters: each is encoded, and kept as long as the picture is denoised.
MOST_TEXTS, MOST_CHARACTERS = 100, 100_000
#: Prompts that steer one picture: each is a row of every call of the model.
MOST_PROMPTS = 8

#: Until which step (from 1) a text is drawn, and the text; the last step is always the last one's.
Schedule = tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Edit:
    """`[before:after:when]`."""

    before: "_Items"
    after: "_Items"
    when: str
    depth: int

    def until(self, steps: int) -> int:
        """Return the last step of what is before; 0 or less: it has none."""
        number = float(self.when)
        return int(max(-1.0, min(steps, number * steps if "." in self.when else number)))


@dataclass(frozen=True, kw_only=True)
class _Turns:
    """`[one|other]`."""

    choices: tuple["_Items", ...]
    depth: int


_Item = str | _Edit | _Turns
_Items = Sequence[_Item]


@dataclass
class _Group:
    """What is read since a bracket was opened, or since the prompt's start."""

    opener: str
    #: Split at colons and bars.
    fields: list[list[_Item]] = field(default_factory=lambda: [[]])
    signs: list[str] = field(default_factory=list)

    def letters(self, closer: str = "") -> list[_Item]:
        """Return what it is where its brackets, colons and bars are letters."""
        found: list[_Item] = [self.opener, *self.fields[0]]
        for sign, part in zip(self.signs, self.fields[1:], strict=True):
            found += [sign, *part]
        found.append(closer)
        return ["".join(map(str, found))] if all(isinstance(item, str) for item in found) else found

    def meaning(self, closer: str) -> list[_Item] | None:
        """Return what it means with this closing bracket; None: nothing."""
        if not self.signs or (closer == ")" and self.signs == [":"]):
            # An emphasis, which is read later.
            return self.letters(closer)
        if closer == ")":
            return None
        if set(self.signs) == {"|"}:
            return [_Turns(choices=tuple(self.fields), depth=1 + _depth(self.fields))]
        last = self.fields[-1]
        plain = self.signs in ([":"], [":", ":"]) and all(isinstance(item, str) for item in last)
        when = _WHEN.fullmatch("".join(map(str, last))) if plain else None
        if when is None:
            return None
        before = self.fields[0] if len(self.signs) == 2 else []
        return [_Edit(before=before, after=self.fields[-2], when=when[1], depth=1 + _depth(self.fields))]


def _depth(fields: Sequence[_Items]) -> int:
    return max((item.depth for items in fields for item in items if not isinstance(item, str)), default=0)


def _read(prompt: str) -> _Items | None:
    """Return texts and what changes between them; None where all of the prompt is letters.

    A bar outside of `[…|…]` makes it so, as does a backslash before nothing. A bracket that closes nothing, that is
    never closed, or around what means nothing is a letter, and so is every bracket around such a one. Raises ValueError
    for what is nested too deep.
    """
    stack = [_Group("")]
    for token in _TOKEN.findall(prompt):
        top = stack[-1]
        if token in ("(", "["):
            stack.append(_Group(token))
        elif token in _CLOSES:
            meaning = top.meaning(token) if top.opener == _CLOSES[token] else None
            if meaning is not None:
                stack.pop()
                stack[-1].fields[-1] += meaning
            elif _become_letters(stack):
                stack[-1].fields[-1].append(token)
            else:
                return None
        elif token in (":", "|") and top.opener:
            top.signs.append(token)
            top.fields.append([])
        elif token in ("|", "\\"):
            return None
        else:
            top.fields[-1].append(token)
    if not _become_letters(stack):
        return None
    [found] = stack[0].fields
    if _depth([found]) > _DEEPEST:
        raise ValueError(f"[…:…:0.5] and […|…] are nested more than {_DEEPEST} deep")
    return found


def _become_letters(stack: list[_Group]) -> bool:
    """Have all brackets that are open be letters. Return False where there is a bar among them."""
    opened = stack[1:]
    del stack[1:]
    for group in opened:
        stack[0].fields[-1] += group.letters()
    return not any("|" in group.signs for group in opened)


@lru_cache(maxsize=256)
def schedule(prompt: str, steps: int) -> Schedule:
    """Return which text is drawn until which of so many steps. Raises ValueError for what is nested too deep."""
    items = _read(prompt) if "[" in prompt else None
    if items is None:
        return ((steps, prompt),)
    ends = {steps, *_ends(items, steps)}
    return tuple((end, _text(items, end, steps)) for end in sorted(ends))


def _ends(items: _Items, steps: int) -> Iterator[int]:
    for item in items:
        if isinstance(item, _Turns):
            yield from range(1, steps + 1)
        elif isinstance(item, _Edit):
            if (until := item.until(steps)) >= 1:
                yield until
            yield from _ends([*item.before, *item.after], steps)


def _text(items: _Items, step: int, steps: int) -> str:
    return "".join(item if isinstance(item, str) else _text(_chosen(item, step, steps), step, steps) for item in items)


def _chosen(item: "_Edit | _Turns", step: int, steps: int) -> _Items:
    if isinstance(item, _Turns):
        return item.choices[(step - 1) % len(item.choices)]
    return item.before if step <= item.until(steps) else item.after


def place_at(found: Schedule, call: int) -> int:
    """Return which text of a schedule is drawn at a call, counted from 0.

    The web UI compares the number of its calls, from 0, with the schedule's steps, from 1: each change comes one call
    later than it says, and of `[a|b]` the first word is drawn twice.
    """
    return next((place for place, (until, _) in enumerate(found) if call <= until), len(found) - 1)


def prompts(prompt: str) -> list[tuple[str, float]]:
    """Return the prompts between `AND`s and their weights, which stand at their ends; 1 where there is none."""
    found = []
    for part in _AND.split(prompt):
        weight = _WEIGHT.search(part)
        text = part[: weight.start()] if weight else part
        found.append((text.rstrip(), float(weight[1]) if weight else 1.0))
    return found


def is_one(prompt: str) -> bool:
    """Return whether a prompt is a single one with the weight 1."""
    return [weight for _, weight in prompts(prompt)] == [1.0]


def is_readable(prompt: str) -> bool:
    """Return whether changes in a prompt are read at all; the web UI gives up on some. Raises as `schedule` does."""
    return _read(prompt) is not None


def changes(prompt: str) -> bool:
    """Return whether a prompt changes between steps. Raises ValueError as `schedule` does."""
    items = _read(prompt) if "[" in prompt else None
    return any(not isinstance(item, str) for item in items or ())


def is_composed(prompt: str, negative_prompt: str) -> bool:
    """Return whether a picture is steered by more than one text for and one against it, all its steps long."""
    return not is_one(prompt) or changes(prompt) or changes(negative_prompt)


def texts(prompt: str, steps: int) -> list[str]:
    """Return the different texts that a prompt is in so many steps. Raises ValueError as `schedule` does."""
    return list(dict.fromkeys(text for _, text in schedule(prompt, steps)))
