"""Hashes of safetensors files as galleries and the web UI know them, beside our own of the tensors (`weights`).

Sources: modules/hashes.py and modules/sd_models.py of the web UI 1.10. What Civitai calls AutoV2 and AutoV3 are the
first 10 and 12 digits of the first two.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from storage.spec.file_state import FileState, file_state

_BLOCK = 1 << 20
#: Where the web UI's first hash of a model looks, and how far.
_OLD_START, _OLD_BYTES = 0x100000, 0x10000


def hash_whole(file: Path) -> str:
    """Return the SHA-256 of a file; of checkpoints and VAEs, the web UI writes the first 10 digits."""
    return _hashed(file, file_state(file), past_header=False)


def hash_past_header(file: Path) -> str:
    """Return the SHA-256 of what follows the header; of LoRAs, the web UI writes the first 12 digits."""
    return _hashed(file, file_state(file), past_header=True)


def hash_of_a_part(file: Path) -> str:
    """Return the 8 digits by which the web UI's ControlNet extension tells files of one name apart."""
    with file.open("rb") as opened:
        opened.seek(_OLD_START)
        return hashlib.sha256(opened.read(_OLD_BYTES)).hexdigest()[:8]


@lru_cache(maxsize=1000)
def _hashed(file: Path, _state: FileState, *, past_header: bool) -> str:
    total = hashlib.sha256()
    with file.open("rb") as opened:
        if past_header:
            opened.seek(8 + int.from_bytes(opened.read(8), "little"))
        while block := opened.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
