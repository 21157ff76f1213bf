"""Values in YAML, without its surprises."""

from typing import Any

import yaml

from storage.errors import BadSpecification


def parse_yaml(text: str) -> Any:
    """Parse YAML. Raises BadSpecification with the line, also for a mapping that has a key twice."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise BadSpecification(f"{place}not YAML: {getattr(error, 'problem', None) or error}") from None


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

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value}", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
