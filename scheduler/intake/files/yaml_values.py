"""Values in YAML, without its surprises."""

from typing import Any

import yaml

from storage.errors import BadSpecification

#: Python writes numbers of more than 4,300 digits out only if it is told to.
_MOST_BITS = 1024


def parse_yaml(text: str) -> Any:
    """Parse YAML. Raises BadSpecification with the line, also for a mapping that has a key twice."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise BadSpecification(f"{place}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise BadSpecification("not YAML: lists and mappings within one another too deeply") from None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """YAML's safe loader, which by itself keeps the last of two equal keys in silence."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            # Lists of lists of lists: a few lines that stand for more values than there is memory.
            raise yaml.MarkedYAMLError(
                problem="an alias of a list or a mapping; write its values out", problem_mark=node.start_mark
            )
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
            if isinstance(found, int) and found.bit_length() > _MOST_BITS:
                raise ValueError("more digits than anything here takes")
            return found
        except (ValueError, KeyError, AttributeError):
            # How the library meets numbers of thousands of digits, and times and tags that say what is none.
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{str(node.value)[:40]!r} is no {kind}; put text into quotes", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value}", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
