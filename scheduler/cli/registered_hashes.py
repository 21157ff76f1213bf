"""Which registered files have a hash that another program wrote into a picture.

The web UI writes the first 10 digits of a checkpoint's or VAE's SHA-256, and once wrote 8 of a part of it (its
`modules/hashes.py` and `modules/sd_models.py`); of LoRAs, the first 12 of what follows the header. Civitai knows all
files by the first 10 (AutoV2), and LoRAs by those 12 (AutoV3), too.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from storage.errors import BadSettings
from storage.settings import Settings
from storage.spec.file_hashes import hash_of_a_part, hash_past_header, hash_whole
from storage.spec.file_state import file_state
from storage.spec.model_files import named_folder
from storage.spec.models import Lora, Weights
from storage.spec.safetensors_header import read_header
from storage.spec.whole_files import replace_whole

#: What trainers write of a LoRA's hash into its header: the one that the web UI writes the first 12 digits of.
_STATED = "sshs_model_hash"
#: Fewer digits would be those of several files.
_LEAST_DIGITS = 8
#: The web UI's first kind of hash, which is of 64 KiB and known at once.
_OLD_DIGITS = 8
_OLD_FROM = 1 << 20
#: Above so many bytes somebody waits for a file to be read, and is told why.
_LONG = 1 << 30


class RegisteredHashes:
    """Hashes of files on this machine; a file is read once, for it is noted what its hash was."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._file = settings.home / "file_hashes.json"
        self._tell = tell

    def has(self, entry: Weights | Lora | None, digits: str) -> bool | None:
        """Tell whether an entry's file has a hash that begins so; None: it is no single file here, or too few digits.

        Raises BadSettings if what was found cannot be noted.
        """
        path = None if entry is None else named_folder(entry)
        if path is None or len(digits) < _LEAST_DIGITS or not path.is_file():
            return None
        wanted = digits.lower()
        try:
            if len(wanted) == _OLD_DIGITS:
                # Of shorter files there is no such part.
                old = path.stat().st_size > _OLD_FROM and hash_of_a_part(path) == wanted
                return old or self._hash(path, hash_whole).startswith(wanted)
            if isinstance(entry, Lora):
                # What is stated may be of the file before it was converted; pictures of the farm have that of this one.
                stated = read_header(path).metadata.get(_STATED, "").lower()
                return stated.startswith(wanted) or any(
                    self._hash(path, how).startswith(wanted) for how in (hash_past_header, hash_whole)
                )
            return self._hash(path, hash_whole).startswith(wanted)
        except ValueError:
            # No safetensors file.
            return None
        except OSError as error:
            raise BadSettings(f"hashes of files cannot be read or noted: {error}") from None

    def find(self, entries: Mapping[str, Weights | Lora], digits: str) -> Iterable[str]:
        """Yield the aliases of those whose file has such a hash. Raises BadSettings."""
        return (alias for alias, entry in entries.items() if self.has(entry, digits))

    def _hash(self, path: Path, how: Callable[[Path], str]) -> str:
        key = json.dumps([how.__name__, str(path.absolute()), file_state(path)])
        known = self._known()
        if key not in known:
            if path.stat().st_size > _LONG:
                self._tell(f"reading {path.name} once, for the hash that the picture names it by")
            known[key] = how(path)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_whole(self._file, json.dumps(known, indent=1), mode=0o600)
        return known[key]

    def _known(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
