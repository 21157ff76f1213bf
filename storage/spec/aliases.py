"""Aliases made of the names of files, folders and repositories."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

_NOT_IN_ALIASES = re.compile(r"[^a-z0-9._-]+")
_LONGEST = 63


def alias_of(name: str) -> str:
    """Return the alias nearest to a name, such as `detail-tweaker` for `Detail Tweaker`; "unnamed" for none at all."""
    plain = _NOT_IN_ALIASES.sub("-", name.lower()).strip("._-")
    return plain[:_LONGEST].rstrip("._-") or "unnamed"


def aliases_of(files: Iterable[Path], *, taken: Collection[str]) -> dict[str, Path]:
    """Return files by their aliases, in order; of those that would have the same one, the second's ends in `-2`."""
    found: dict[str, Path] = {}
    for file in files:
        alias, number = alias_of(file.stem), 1
        wanted = alias
        while wanted in found or wanted in taken:
            number += 1
            wanted = f"{alias[: _LONGEST - 4]}-{number}"
        found[wanted] = file
    return found
