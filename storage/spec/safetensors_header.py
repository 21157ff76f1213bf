"""The header of a safetensors file, read and checked without torch: its tensors, and what it says of itself.

The format: eight bytes with the length of a JSON table, the table, then the tensors' bytes without a gap
(safetensors' README, "Format").
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: No header is longer: safetensors refuses them.
_LONGEST = 100_000_000
ARCHIVE = b"PK\x03\x04"
#: What downloads leave under the name of a model, by its first bytes.
BEGINNINGS = {
    b"<": "it is a web page, of an error perhaps; fetch the file again",
    b"version ": "it is a pointer of Git LFS and not the file; `git lfs pull` fetches that",
    ARCHIVE: "it is an archive, as PyTorch's pickled files are; what it holds must be made safetensors first",
    b"GGUF": "it is a GGUF file, which the farm does not read",
}
#: Bits of one number of each type.
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class Tensor:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    #: Its first byte in the file, and the one after its last.
    begin: int
    end: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The tensors by name, in the file's order, and the file's metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises OSError if it cannot be read, ValueError with what is wrong with it: that it is cut short, or that its header
    does not describe it.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        # To open a pipe waits for whoever writes into it.
        folder = "it is a folder, and its name that of a file; give it another"
        raise ValueError(folder if file.is_dir() else "it is no file with contents of its own")
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        begins = opened.read(8)
        length = int.from_bytes(begins, "little")
        if size < 8 or not 2 <= length <= _LONGEST:
            raise ValueError(_instead(begins, "its header has no length"))
        if size < 8 + length:
            raise ValueError(_instead(begins, "it is cut short, within its header; fetch or copy it again"))
        table = _table(opened.read(length))
    said = table.pop("__metadata__", None)
    said = {} if said is None else said
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("its header lies: what it says of itself (__metadata__) is no table of texts")
    try:
        tensors = {name: _tensor(name, entry, 8 + length) for name, entry in table.items()}
    except (KeyError, TypeError):
        raise ValueError("its header does not describe tensors") from None
    _check_bytes(tensors, begin=8 + length, end=size)
    return Header(tensors, said)


def _instead(begins: bytes, otherwise: str) -> str:
    """Say what a file is that begins so, and is none of safetensors."""
    if not begins:
        return "it is empty; fetch or copy it again"
    return next((words for start, words in BEGINNINGS.items() if begins.startswith(start)), otherwise)


def _table(written: bytes) -> dict[str, Any]:
    """Read the JSON of a header, which is an object in UTF-8 that has each name once. Raises ValueError."""
    try:
        text = written.decode("utf-8")
        table = json.loads(text, object_pairs_hook=_once)
        if "\\ud" in text.lower():
            # Perhaps halves of characters, which no screen and no file takes.
            json.dumps(table, ensure_ascii=False).encode("utf-8")
    except _Twice as error:
        raise ValueError(f"its header lies: it has {error} twice") from None
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(table, dict):
        raise ValueError("its header is not a table")
    return table


class _Twice(Exception):
    """Raised when a table has one name twice: of which of both tensors it is nobody can tell."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        tensors = [name for name, value in pairs if isinstance(value, dict)]
        if twice := [name for name in tensors if tensors.count(name) > 1]:
            raise _Twice(twice[0][:60])
    return found


def _tensor(name: str, entry: Mapping[str, Any], start: int) -> Tensor:
    shape = tuple(entry["shape"])
    if not isinstance(entry["data_offsets"], list) or len(entry["data_offsets"]) != 2:
        raise KeyError("data_offsets")
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or end < begin:
        raise ValueError(f"its header lies: {name} has no such shape or place")
    tensor = Tensor(str(entry["dtype"]), shape, start + begin, start + end)
    bits = _BITS.get(tensor.dtype)
    if bits is None:
        raise ValueError(f"{name} is of numbers of a kind that is not known ({tensor.dtype[:20]})")
    if tensor.numbers * bits != 8 * (end - begin):
        raise ValueError(f"its header lies: {name} is said to take {end - begin} bytes, which its shape does not")
    return tensor


def _check_bytes(tensors: Mapping[str, Tensor], *, begin: int, end: int) -> None:
    """Raise ValueError unless the tensors' bytes follow each other, to the end of the file."""
    at = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise ValueError(f"its header lies: the bytes of {name} are not where those before it end")
        at = tensor.end
    if at > end:
        raise ValueError(
            f"it is cut short: its tensors take {at - begin} bytes, {end - begin} are there; fetch it again"
        )
    if at < end:
        raise ValueError(f"its header lies: {end - at} bytes of it belong to no tensor")
