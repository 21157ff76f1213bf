"""Text that is copied from a page and pasted elsewhere: all of it is seen, and a terminal takes none of it for keys."""

import re
import shlex
import unicodedata
from collections.abc import Iterable

#: Joiners of emoji and of scripts, which turn nothing round.
_HARMLESS = "\u200c\u200d"
#: Controls, what turns text round, separators of lines: keys to a terminal, and on a page not what they seem.
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
#: In `$'…'`: also what ends it, and what an interactive shell takes for its history.
_SPECIAL = "\\'!"
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def shell_line(words: Iterable[str]) -> str:
    """Return words as one line for bash and zsh, also where it is pasted at a prompt."""
    return " ".join(map(_shell_word, words))


def seen_json(text: str) -> str:
    """Return JSON with escapes for what cannot be seen in it; its own lines stay. It means the same."""
    return re.sub(r"[^\n -~]", lambda match: _json_escape(match[0]) if _is_unseen(match[0]) else match[0], text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN and character not in _HARMLESS


def _shell_word(word: str) -> str:
    if not any(map(_is_unseen, word)):
        return shlex.quote(word)
    return "$'" + "".join(map(_shell_escape, word)) + "'"


def _shell_escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character in _SPECIAL or _is_unseen(character):
        # Bytes: `\\u` depends on the locale.
        return "".join(f"\\{byte:03o}" for byte in character.encode())
    return character


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
