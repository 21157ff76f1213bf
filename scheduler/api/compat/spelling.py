"""Field names: errors tell of a wrong field by the name that the caller's protocol has for it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from storage.errors import BadSpecification

#: `width: …`, `width, height: …`, also behind a place such as `line 3: `.
_NAMED = re.compile(r"((?:[^:\n]* \d+: )?)(\w+(?:, \w+)*): (.*)", re.DOTALL)


@contextmanager
def spelled(names: Mapping[str, str]) -> Iterator[None]:
    """Raise what is raised within, with `names` (a specification's field → the protocol's) in place of our own."""
    try:
        yield
    except BadSpecification as error:
        raise BadSpecification(respelled(str(error), names)) from None


def respelled(message: str, names: Mapping[str, str]) -> str:
    """Return a message with the protocol's name of its field."""
    match = _NAMED.fullmatch(message)
    if match is None:
        return message
    fields = dict.fromkeys(names.get(field, field) for field in match[2].split(", "))
    return f"{match[1]}{', '.join(fields)}: {match[3]}"
