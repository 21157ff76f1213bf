"""Field names in errors: a wrong field is named as the caller's protocol names it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from storage.errors import BadSpecification

#: `width: …`, `width, height: …`, also behind a place such as `line 3: `.
_NAMED = re.compile(r"((?:[^:\n]* \d+: )?)(\w+(?:, \w+)*): (.*)", re.DOTALL)


@contextmanager
def spelled(names: Mapping[str, str]) -> Iterator[None]:
    """Rename fields in the errors raised within; `names`: field of a specification → name in the protocol."""
    try:
        yield
    except BadSpecification as error:
        raise BadSpecification(respelled(str(error), names)) from None


def respelled(message: str, names: Mapping[str, str]) -> str:
    """Return a message with its field named as in the protocol."""
    match = _NAMED.fullmatch(message)
    if match is None:
        return message
    fields = dict.fromkeys(names.get(field, field) for field in match[2].split(", "))
    return f"{match[1]}{', '.join(fields)}: {match[3]}"
