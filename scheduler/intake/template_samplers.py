"""How prompts are drawn from templates: the library's samplers, where they do what is asked for.

Where they do not, in a table with what is done about it: `scheduler/intake/README.md`.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from dynamicprompts.commands import (
    Command,
    LiteralCommand,
    SamplingMethod,
    SequenceCommand,
    VariantCommand,
    VariantOption,
    WildcardCommand,
)
from dynamicprompts.commands.variable_commands import VariableAssignmentCommand
from dynamicprompts.parser.parse import parse
from dynamicprompts.samplers import CombinatorialSampler, CyclicalSampler, RandomSampler, Sampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.types import ResultGen

#: `#`, `//` and `/* */` begin comments in the library's grammar, wherever they stand; a backslash is a letter in it.
_SIGNS = re.compile(r"\\(?:[{}|$%]|__)|#|//|/\*(?=.*?\*/)", re.DOTALL)
#: Private characters of Unicode in their place while the library has the text.
_IN_PLACE = {sign: chr(0xE000 + number) for number, sign in enumerate(("#", "//", "/*", "{", "}", "|", "$", "%", "__"))}


def guarded(text: str) -> str:
    """Return a template in which no sign begins a comment (`a star #1` has none) and `\\{` is a letter."""
    return _SIGNS.sub(lambda found: _IN_PLACE[found[0].removeprefix("\\")], text)


def with_signs(text: str) -> str:
    """Return a text with the signs that `guarded` replaced."""
    for sign, private in _IN_PLACE.items():
        text = text.replace(private, sign)
    return text


def samplers() -> dict[SamplingMethod, Sampler]:
    """Return the samplers by their methods, as a context takes them."""
    return {
        SamplingMethod.COMBINATORIAL: _EachOnce(),
        SamplingMethod.CYCLICAL: CyclicalSampler(),
        SamplingMethod.RANDOM: _ByWeight(),
    }


class _EachOnce(CombinatorialSampler):
    """Every value of a wildcard once, whatever its weight; every value of a variable."""

    def _get_sequence(self, command: SequenceCommand, context: SamplingContext) -> ResultGen:
        for tokens in _evaluated(command.tokens, context):
            yield from super()._get_sequence(dataclasses.replace(command, tokens=tokens), context)

    def _get_wildcard(self, command: WildcardCommand, context: SamplingContext) -> ResultGen:
        inner = context.with_variables(command.variables)
        for value in _values(command, context):
            yield from inner.sample_prompts(str(value))

    def _get_variant(self, variant_command: VariantCommand, context: SamplingContext) -> ResultGen:
        yield from super()._get_variant(_as_choices(variant_command, context), context)


class _ByWeight(RandomSampler):
    """Values by their weights, also where several of a wildcard are drawn; a variable's value anew for each prompt."""

    def _get_sequence(self, command: SequenceCommand, context: SamplingContext) -> ResultGen:
        if _to_evaluate(command.tokens) is None:
            yield from super()._get_sequence(command, context)
            return
        while True:
            tokens = next(_evaluated(command.tokens, context))
            yield next(iter(super()._get_sequence(dataclasses.replace(command, tokens=tokens), context)))

    def _get_variant(self, command: VariantCommand, context: SamplingContext) -> ResultGen:
        yield from super()._get_variant(_as_choices(command, context), context)

    def _get_variant_choices(
        self, values: list[Command], weights: list[float], num_choices: int, rand: Random
    ) -> list[Command]:
        left = list(zip(values, weights, strict=True))
        chosen: list[Command] = []
        while left and len(chosen) < num_choices:
            [number] = rand.choices(range(len(left)), weights=[weight for _, weight in left])
            chosen.append(left.pop(number)[0])
        return chosen


def _values(command: WildcardCommand, context: SamplingContext) -> Iterator[object]:
    name = next(iter(context.sample_prompts(command.wildcard, 1))).text
    return iter(context.wildcard_manager.get_values(name).items)


def _as_choices(command: VariantCommand, context: SamplingContext) -> VariantCommand:
    """Return `{2$$__animal__}` as a choice of the wildcard's values, with their weights."""
    value = command.values[0] if len(command.values) == 1 else None
    if not isinstance(value, WildcardCommand):
        return command
    options = [
        VariantOption(parse(str(one), parser_config=context.parser_config), getattr(one, "weight", 1.0))
        for one in _values(value, context)
    ]
    return VariantCommand(
        options,
        min_bound=min(command.min_bound, len(options)),
        max_bound=min(command.max_bound, len(options)),
        separator=command.separator,
        sampling_method=value.sampling_method,
    )


def _to_evaluate(tokens: Sequence[Command]) -> tuple[int, VariableAssignmentCommand] | None:
    """Return the first variable that has one value throughout a prompt (`${color=!{red|blue}}`), and its place."""
    for number, token in enumerate(tokens):
        if (
            isinstance(token, VariableAssignmentCommand)
            and token.immediate
            and not isinstance(token.value, LiteralCommand)
        ):
            return number, token
    return None


def _evaluated(tokens: list[Command], context: SamplingContext) -> Iterator[list[Command]]:
    """Yield the parts of a template once for each value of such variables; where they are drawn, for one value."""
    found = _to_evaluate(tokens)
    if found is None:
        yield tokens
        return
    number, token = found
    before = {one.name: one.value for one in tokens[:number] if isinstance(one, VariableAssignmentCommand)}
    drawn = context.get_effective_sampling_method(token.value) is not SamplingMethod.COMBINATORIAL
    for value in islice(context.with_variables(before).sample_prompts(token.value), 1 if drawn else None):
        known = dataclasses.replace(token, value=LiteralCommand(str(value)))
        yield from _evaluated([*tokens[:number], known, *tokens[number + 1 :]], context)
