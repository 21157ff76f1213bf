"""Prompt templates: `{red|blue} __animal__`, in the syntax of the library `dynamicprompts`, expanded as a stream.

Every combination, or so many drawn at random from a seed. Wildcards (`__animal__`) are lines of files, read once: what
is left is a value that can be stored and expanded elsewhere.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from random import Random

from dynamicprompts.commands import (
    Command,
    LiteralCommand,
    SamplingMethod,
    SequenceCommand,
    VariantCommand,
    WildcardCommand,
    WrapCommand,
)
from dynamicprompts.commands.variable_commands import VariableAccessCommand, VariableAssignmentCommand
from dynamicprompts.parser.parse import parse
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection.base import WildcardCollection
from dynamicprompts.wildcards.collection.list import ListWildcardCollection
from dynamicprompts.wildcards.item import WildcardItem
from pydantic import BaseModel, ConfigDict, PositiveInt, PrivateAttr
from pyparsing import ParseException

from scheduler.intake.files.wildcards import SUFFIXES, Wildcards, WildcardValue, check_weight, read_folder
from scheduler.intake.template_samplers import guarded, samplers, with_signs
from storage.errors import BadSpecification, InvalidInput

#: More prompts than a farm renders in a year are a mistake in a template.
MOST = 10_000_000
#: What cannot be counted in so many steps is a trap: each of twenty variables that stands twice in the next.
_MOST_STEPS = 300_000
#: Counts end here; the number of a trap's prompts has thousands of digits.
_ENDLESS = 10**15
_MOST_CHOSEN = 17  # 18! is more than that
#: Values in which there is nothing to draw.
_PLAIN = re.compile(r"[A-Za-z0-9 ,.-]+")
#: Where a wildcard is named, with what may stand around its name: `__~animal__`, `__animal(size=large)__`.
_NAME = re.compile(r"(?=__[~@!]?(.{1,100}?)(?:\([^()]{0,200}\))?__)")
#: One that stands for several (`__a*__`), or whose name is drawn itself.
_DRAWN_NAME = re.compile(r"__[^_]{0,100}[*?\[{$]")
#: Wildcards nested deeper than that are circular.
_DEEPEST = 30


class Templates(BaseModel):
    """Hold templates and all that their prompts depend on; as JSON they can be stored and expanded later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: tuple[str, ...]
    wildcards: Mapping[str, tuple[WildcardValue, ...]] = {}
    #: How many random prompts of each template; None: every combination.
    random: PositiveInt | None = None
    seed: int = 0
    #: Of counting the template that is counted now.
    _steps: int = PrivateAttr(0)

    def prompts(self) -> Iterator[str]:
        """Yield the prompts of each template in turn; the same ones every time.

        Raises BadSpecification if there would be more than `MOST`, and for a template that cannot be read.
        """
        for count, text in zip(self.counts(), self.texts, strict=True):
            context = SamplingContext(
                wildcard_manager=self._manager,
                default_sampling_method=SamplingMethod.RANDOM if self.random else SamplingMethod.COMBINATORIAL,
                samplers=samplers(),
                rand=Random(f"{self.seed} {text}"),  # noqa: S311 - to be drawn again, not a secret
            )
            # Samplers of a random part never end.
            for prompt in islice(context.sample_prompts(_parsed(guarded(text))), count):
                yield with_signs(str(prompt))

    def counts(self) -> list[int]:
        """Return how many prompts each template makes; an upper bound if two combinations read the same.

        Raises BadSpecification as `prompts` does.
        """
        found = [self.random if self.random is not None else self._count(text) for text in self.texts]
        for text in self.texts:
            self._count(text)  # syntax errors are found before anything is drawn
        if sum(found) > MOST:
            number = f"{sum(found):,}" if sum(found) < _ENDLESS else f"more than {_ENDLESS:,}"
            raise BadSpecification(
                f"the templates expand to {number} prompts; the maximum is {MOST:,}: "
                "use fewer choices, or draw at random (`random`, --random N)"
            )
        return found

    def unread(self) -> list[str]:
        """Return the names of wildcards that stand in no template and no value, as far as their texts tell."""
        texts = [*self.texts, *(value.text for values in self.wildcards.values() for value in values)]
        if any(_DRAWN_NAME.search(text) for text in texts):
            return []
        named = {name for text in texts for name in _NAME.findall(text)}
        return [name for name in self.wildcards if name not in named]

    def _count(self, text: str) -> int:
        if not text.strip():
            raise BadSpecification("an empty template")
        self._steps = 0
        try:
            return self._combinations(_parsed(guarded(text)), {}, 0)
        except BadSpecification as error:
            raise BadSpecification(f"template {_shown(text)}: {error}") from None

    def _combinations(self, command: Command, variables: Mapping[str, Command], depth: int) -> int:
        if depth > _DEEPEST:
            raise BadSpecification("its wildcards are circular")
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise BadSpecification("its wildcards and variables stand within one another too often to be counted")
        if command.sampling_method not in (None, SamplingMethod.COMBINATORIAL):
            return 1
        match command:
            case LiteralCommand():
                return 1
            case SequenceCommand():
                known = dict(variables)
                total = 1
                for token in command.tokens:
                    if isinstance(token, VariableAssignmentCommand):
                        if token.immediate and self.random is None:
                            total *= self._combinations(token.value, known, depth + 1)
                        known[token.name] = LiteralCommand("") if token.immediate else token.value
                    else:
                        total = min(total * self._combinations(token, known, depth + 1), _ENDLESS)
                return total
            case VariantCommand():
                _check_weights(command)
                return self._choices(command, variables, depth)
            case WildcardCommand():
                return sum(self._of_wildcard(command, variables, depth))
            case WrapCommand():
                parts = (command.wrapper, command.inner)
                return math.prod(self._combinations(part, variables, depth + 1) for part in parts)
            case VariableAccessCommand():
                value = variables.get(command.name, command.default)
                if value is None:
                    raise BadSpecification(
                        f"no variable named {command.name!r}; assign it before, as in ${{x={{a|b}}}}"
                    )
                return self._combinations(value, variables, depth + 1)
            case VariableAssignmentCommand():
                raise BadSpecification(f"it gives the variable {command.name!r} a value, and has nothing to draw")
            case _:
                return 1

    def _choices(self, command: VariantCommand, variables: Mapping[str, Command], depth: int) -> int:
        """Count ordered selections of `min_bound` to `max_bound` of the variants: k! · e_k(their counts)."""
        values = command.values
        if len(values) == 1 and isinstance(values[0], WildcardCommand):
            counts = self._of_wildcard(values[0], variables, depth)
        else:
            counts = [self._combinations(value, variables, depth + 1) for value in values]
        if command.min_bound > len(counts):
            raise BadSpecification(f"it chooses {command.min_bound} of {len(counts)} values")
        least, most = (min(bound, len(counts)) for bound in (command.min_bound, command.max_bound))
        if most > _MOST_CHOSEN:
            return _ENDLESS
        # Coefficients of Π (1 + c·x), as far as they are asked for: the elementary symmetric polynomials of the counts.
        chosen = [1]
        for count in counts:
            longer = zip([*chosen, 0], [0, *chosen], strict=True)
            chosen = [min(a + b * count, _ENDLESS) for a, b in longer][: most + 1]
        return sum(math.factorial(k) * chosen[k] for k in range(least, most + 1))

    def _of_wildcard(self, command: WildcardCommand, variables: Mapping[str, Command], depth: int) -> list[int]:
        """Return how many prompts each value of a wildcard makes."""
        if not isinstance(command.wildcard, str):
            return [self._combinations(command.wildcard, variables, depth + 1)]
        values = self._manager.get_values(command.wildcard)
        if not values:
            name = with_signs(command.wildcard)
            if name in self.wildcards:
                raise BadSpecification(f"the wildcard {name!r} has no values")
            known = (
                f"known wildcards: {', '.join(sorted(self.wildcards))}"
                if self.wildcards
                else "none were given (`wildcards`, --wildcards DIR)"
            )
            raise BadSpecification(f"no wildcard named {name!r}; {known}")
        known_there = {**variables, **command.variables}
        return [
            1 if _PLAIN.fullmatch(value) else self._combinations(self._value(command, value), known_there, depth + 1)
            for value in values.string_values
        ]

    def _value(self, command: WildcardCommand, text: str) -> Command:
        """Parse a value of a wildcard, which may stand in many places."""
        if text not in self._known_values:
            self._known_values[text] = _value(str(command.wildcard), text)
        return self._known_values[text]

    @cached_property
    def _known_values(self) -> dict[str, Command]:
        return {}

    @cached_property
    def _manager(self) -> WildcardManager:
        collections: dict[str, WildcardCollection | list[str]] = {}
        for name, values in self.wildcards.items():
            # A value on two lines is to be drawn twice as often; the library drops the second.
            weights: dict[str, float] = {}
            for value in values:
                text = guarded(value.text)
                weights[text] = weights.get(text, 0.0) + value.weight
            collections[name] = ListWildcardCollection([WildcardItem(*one) for one in weights.items()])
        manager = WildcardManager(root_map={"": [collections]})
        manager.sort_wildcards = False  # in the order of their files
        return manager


def has_choices(text: str) -> bool:
    """Return whether there may be something to draw in a value of a wildcard, which is parsed then."""
    return _PLAIN.fullmatch(text) is None


def read_wildcards(folder: Path) -> Wildcards:
    """Read the wildcards of a folder.

    Raises InvalidInput if there is no such folder, or none in it, and as `read_folder` does.
    """
    if not folder.is_dir():
        raise InvalidInput(f"--wildcards {folder}: no such folder")
    found = read_folder(folder)
    if not found:
        raise InvalidInput(f"--wildcards {folder}: no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files in it")
    return found


def _check_weights(command: VariantCommand) -> None:
    """Raise BadSpecification for a weight that draws nothing, or that the library takes for words."""
    if not all(command.weights):
        raise BadSpecification("a weight of 0; leave out what is never to be drawn")
    for value in command.values:
        first = value.tokens[0] if isinstance(value, SequenceCommand) and value.tokens else value
        if isinstance(first, LiteralCommand):
            check_weight(first.literal)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Command:
    """Parse a guarded template; a thousand characters take a second. Raises BadSpecification."""
    try:
        found = parse(text)
    except ParseException as error:
        raise BadSpecification(
            f"syntax error at character {error.loc + 1} ({with_signs(error.line[error.loc :][:10])!r}); braces, $ and "
            r"% are special in templates: write \{, \$ or \% for the letters"
        ) from None
    except RecursionError:
        raise BadSpecification("its braces are nested too deeply") from None
    opened = 0
    for place, letter in enumerate(text, start=1):
        opened += (letter == "{") - (letter == "}")
        if opened < 0:
            raise BadSpecification(rf"'}}' at character {place} closes nothing; write \}} for the letter")
    return found


def _value(name: str, text: str) -> Command:
    try:
        return _parsed(text)
    except BadSpecification as error:
        raise BadSpecification(f"the value {_shown(with_signs(text))} of the wildcard {name!r}: {error}") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
