"""Aliases made of the names of files, folders and repositories."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path, PureWindowsPath

#: What files of weights end in, elsewhere too.
_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_NOT_IN_ALIASES = re.compile(r"[^a-z0-9._-]+")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LONGEST = 63


def alias_of(name: str) -> str:
    """Return the alias nearest to a name, such as `detail-tweaker` for `Detail Tweaker`; "unnamed" for none at all."""
    plain = _NOT_IN_ALIASES.sub("-", name.lower()).strip("._-")
    return plain[:_LONGEST].rstrip("._-") or "unnamed"


def wrong_alias(name: str) -> str | None:
    """Return what is wrong with a name as an alias, and what to take; None if it is one."""
    if _ALIAS.fullmatch(name):
        return None
    rules = f"small letters, digits and . _ -, {_LONGEST} of them at most, and a letter or digit first"
    return f"{name[:80]!r} is no alias, which has {rules}; take {alias_of(name)}"


def known_as(name: str, known: Collection[str]) -> str:
    """Return the alias of what other programs name by its file, which may have capitals and spaces."""
    return next((alias for alias in (name, name.lower(), alias_of(name)) if alias in known), name.lower())


def alias_in(name: str) -> str:
    """Return the alias that another program's name of a file may mean, where what is registered is not known."""
    return name.lower() if _ALIAS.fullmatch(name.lower()) else alias_of(name)


def without_ending(path: str) -> str:
    """Return a file's name without its folder and ending, as other programs name models and LoRAs."""
    file = PureWindowsPath(path)
    return file.stem if file.suffix.lower() in _ENDINGS else file.name


def aliases_of(files: Iterable[Path], *, taken: Collection[str]) -> dict[str, Path]:
    """Return files by their aliases, in order.

    A file that is called just so has its alias; of others that would have the same one, each has a few digits behind
    it that its own name makes. So a file that is added later never takes the alias of another.
    """
    wanted = {file: alias_of(file.stem) for file in files}
    counts = Counter(wanted.values())
    exact = {alias for file, alias in wanted.items() if file.stem == alias}
    found: dict[str, Path] = {}
    for file, alias in wanted.items():
        alone = file.stem == alias or (counts[alias] == 1 and alias not in exact)
        found[alias if alone and alias not in taken else _marked(alias, file.stem)] = file
    return found


def _marked(alias: str, name: str) -> str:
    return f"{alias[: _LONGEST - 7]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:6]}"
