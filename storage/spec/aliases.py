"""Aliases made of the names of files, folders and repositories."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

_NOT_IN_ALIASES = re.compile(r"[^a-z0-9._-]+")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LONGEST = 63


def alias_of(name: str) -> str:
    """Return the alias nearest to a name, such as `detail-tweaker` for `Detail Tweaker`; "unnamed" for none at all."""
    plain = _NOT_IN_ALIASES.sub("-", name.lower()).strip("._-")
    return plain[:_LONGEST].rstrip("._-") or "unnamed"


def known_as(name: str, known: Collection[str]) -> str:
    """Return the alias of what other programs name by its file, which may have capitals and spaces."""
    return next((alias for alias in (name, name.lower(), alias_of(name)) if alias in known), name.lower())


def alias_in(name: str) -> str:
    """Return the alias that another program's name of a file may mean, where what is registered is not known."""
    return name.lower() if _ALIAS.fullmatch(name.lower()) else alias_of(name)


def aliases_of(files: Iterable[Path], *, taken: Collection[str]) -> dict[str, Path]:
    """Return files by their aliases; of those that would have the same one, the second's ends in `-2`.

    A file that is called just so comes first: no other that is added later takes its alias away.
    """
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: alias_of(file.stem) != file.stem):
        alias, number = alias_of(file.stem), 1
        wanted = alias
        while wanted in found or wanted in taken:
            number += 1
            wanted = f"{alias[: _LONGEST - 4]}-{number}"
        found[wanted] = file
    return found
