"""How many tokens CLIP makes of a prompt, counted without torch from the files of a model's tokenizer.

Byte-pair encoding as in Transformers' `CLIPTokenizer`; a test compares them. Written here because the door, where
prompts are submitted, has a model's files at most, and none of the libraries that read them.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from storage.spec.model_files import CONFIGURATIONS, configuration_folder, remembered
from storage.spec.models import Weights

#: Unicode's white space; Python's has four control characters more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHUNK = re.compile(f"[^{_SPACE}]+")
#: In what is not ASCII, letters and numbers are replaced by these, so that one expression knows them.
_LETTER, _NUMBER, _OTHER = "\ue000", "\ue001", "\ue002"
_PIECE = re.compile(
    rf"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-z{_LETTER}]+|[0-9{_NUMBER}]|[^a-z0-9{_LETTER}{_NUMBER}]+"
)
#: The pieces of all words of an ASCII text.
_ASCII_PIECE = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^a-z0-9\t\n\v\f\r ]+"
)
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
#: The start and the end of the text.
_MARKERS = 2
_END_OF_WORD = "</w>"


class ClipTokens:
    """One tokenizer's vocabulary, by the ranks of its merges."""

    def __init__(self, merges: Sequence[tuple[str, str]], room: int) -> None:
        """
        Args:
            room: how many tokens of a prompt its text encoder reads.
        """
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.room = room
        self._known: dict[str, int] = {}

    def count(self, text: str, room: int | None = None) -> tuple[int, int | None]:
        """Return how many tokens there are, and the index of the first character that is not read, if there is one.

        Args:
            room: where some of the encoder's is taken already, what is left of it.
        """
        room = self.room if room is None else room
        if text.isascii():
            # All at once: a manifest has a million prompts, and of nearly all of them every word is read.
            total = sum(map(self._tokens, _ASCII_PIECE.findall(text.lower())))
            if total <= room:
                return total, None
        total, cut = 0, None
        for start, piece in _pieces(text):
            total += self._tokens(piece)
            if cut is None and total > room:
                cut = start
        return total, cut

    def _tokens(self, piece: str) -> int:
        found = self._known.get(piece)
        if found is None:
            found = 1 if piece in _SPECIAL else self._merged(piece)
            if len(self._known) < 100_000:
                self._known[piece] = found
        return found

    def _merged(self, piece: str) -> int:
        symbols = [_LETTERS[byte] for byte in piece.encode("utf-8", "surrogatepass")]
        symbols[-1] += _END_OF_WORD
        while len(symbols) > 1:
            ranks = [self._ranks.get(pair) for pair in pairwise(symbols)]
            best = min((rank for rank in ranks if rank is not None), default=None)
            if best is None:
                break
            merged: list[str] = []
            at = 0
            while at < len(symbols):
                if at < len(ranks) and ranks[at] == best:
                    merged.append(symbols[at] + symbols[at + 1])
                    at += 2
                else:
                    merged.append(symbols[at])
                    at += 1
            symbols = merged
        return len(symbols)


def least_pieces(text: str) -> Sequence[int]:
    """Return where the stretches of a text start of which CLIP makes one token at least, whatever its vocabulary."""
    return [start for start, _ in _pieces(text)]


def clip_tokens_of(model: Weights) -> tuple[ClipTokens, ...]:
    """Return the tokenizers of a model that reads its prompts with CLIP alone; none where that is unknown here."""
    return _tokenizers(model.source, model.revision, model.config, remembered())


@lru_cache(maxsize=64)
def _tokenizers(source: str, revision: str | None, config: str | None, _when: int) -> tuple[ClipTokens, ...]:
    try:
        folder = configuration_folder(Weights(source=source, revision=revision, config=config))
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {
            name: entry[1]
            for name, entry in index.items()
            if "tokenizer" in name and isinstance(entry, list) and entry[1]
        }
        if not all(kind in ("CLIPTokenizer", "CLIPTokenizerFast") for kind in parts.values()):
            return ()
        return tuple(_read(str(folder / name), _stamp(folder / name)) for name in parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return ()


def merges_file(folder: Path) -> Path:
    """Return the vocabulary of a tokenizer in the older form; the farm's own folders share that of CLIP."""
    return folder / "merges.txt" if CONFIGURATIONS not in folder.parents else CONFIGURATIONS / "clip" / "merges.txt"


def _stamp(folder: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.iterdir()))


@lru_cache(maxsize=16)
def _read(folder: str, _stamp: tuple[int, ...]) -> ClipTokens:
    """Read a tokenizer's folder, in the older form or the newer. Raises whatever is wrong."""
    path = Path(folder)
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    room = int(settings["model_max_length"]) - _MARKERS
    if (path / "tokenizer.json").exists():
        merges: list[Any] = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    else:
        lines = merges_file(path).read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    return ClipTokens([(one, other) for one, other in pairs], room)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the stretches of text that are encoded each by itself, normalized, and where they start in the text."""
    for chunk in _CHUNK.finditer(text):
        given = chunk[0]
        # Character by character: a sigma at the end of a word stays what it is.
        normal = given.lower() if given.isascii() else _lower(unicodedata.normalize("NFC", given))
        shadow = normal if normal.isascii() else "".join(map(_kind, normal))
        for piece in _PIECE.finditer(shadow):
            # Where normalizing has moved characters, the word's start.
            offset = piece.start() if len(normal) == len(given) else 0
            yield chunk.start() + offset, normal[piece.start() : piece.end()]


def _lower(text: str) -> str:
    return "".join(character.lower() for character in text)


@lru_cache(maxsize=10_000)
def _kind(character: str) -> str:
    if character.isascii():
        return character
    return {"L": _LETTER, "N": _NUMBER}.get(unicodedata.category(character)[0], _OTHER)


def _byte_letters() -> Mapping[int, str]:
    """Return the printable letters that stand for bytes in the vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_LETTERS = _byte_letters()
