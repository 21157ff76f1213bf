"""What `farm models check` found of each model on each kind of device: a file beside the registry's.

`models.toml` has `models.checks.json` beside it; to be copied with it to the other machines of a farm. Results count
as long as the model's entry, its files' contents and the farm's version are those that were checked.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import BadSettings, BadSpecification
from storage.settings import Settings
from storage.spec.entry_hash import entry_hash
from storage.spec.file_marks import FileMarks
from storage.spec.model_states import agree
from storage.spec.models import Model
from storage.spec.picture import Spec
from storage.spec.whole_files import locked, replace_whole

log = logging.getLogger(__name__)

_VERSION = 1
#: How soon running processes see a new check.
_FRESH_SECONDS = 5.0


class CheckFinding(BaseModel):
    """One thing that was checked."""

    model_config = ConfigDict(frozen=True)

    check: str
    #: None: it was not checked, or is a measurement.
    held: bool | None
    words: str
    #: The measurements themselves.
    figures: tuple[Mapping[str, float | int | None], ...] = ()


class ModelCheck(BaseModel):
    """What was found of one model on one kind of device."""

    model_config = ConfigDict(frozen=True)

    #: See `storage.spec.entry_hash`.
    entry: str
    #: See `storage.spec.file_marks`.
    files: Mapping[str, str] = Field(default_factory=dict)
    #: Seconds since 1970.
    at: float
    device: str
    #: With the number of threads, on a CPU.
    device_name: str
    #: SHA-256 of the weights.
    weights: str
    dtype: str
    width: int
    height: int
    findings: tuple[CheckFinding, ...]
    #: For how many pictures a call is best made; None: that could not be measured, as beside a running worker.
    pictures: int | None = None
    #: Sides are multiples of so many pixels, or are refused or rounded.
    multiple: int = 8
    #: What whoever submits pictures should know.
    remarks: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return all(finding.held is not False for finding in self.findings)


_Found = Mapping[str, Mapping[str, ModelCheck]]


def checks_file(settings: Settings) -> Path:
    """Return the file beside the registry's, or where that would be."""
    return settings.local_models_file.with_suffix(".checks.json")


class ModelChecks:
    """Reads the file; again when it has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._state: tuple[int, int, int] | None = None
        self._looked_at = float("-inf")
        self._found: _Found = {}
        self._entries: dict[Model, str] = {}
        self._marks = FileMarks()

    def of(self, model: Model) -> list[ModelCheck]:
        """Return what was found of a model as its entry and its files are now, of each kind of device."""
        return [check for check, is_of_these_files in self._of_this_entry(model) if is_of_these_files]

    def of_files_before(self, model: Model) -> list[ModelCheck]:
        """Return what was found of a model as its entry is now, but of files that others have taken the place of."""
        return [check for check, is_of_these_files in self._of_this_entry(model) if not is_of_these_files]

    def on(self, alias: str, device_name: str) -> ModelCheck | None:
        """Return what was found of a model on a kind of device, whatever its entry was then."""
        return self._fresh().get(alias, {}).get(device_name)

    def remarks(self, model: Model) -> list[str]:
        """Return what whoever submits pictures of a model should know."""
        return [
            f"model: {remark} (`farm models check {model.alias}` found it on {check.device_name})"
            for check in self.of(model)
            for remark in check.remarks
        ]

    def multiple(self, model: Model) -> int:
        """Return what sides must be multiples of, as far as it was found."""
        return max((check.multiple for check in self.of(model)), default=1)

    def check_size(self, spec: Spec, model: Model) -> None:
        """Raise BadSpecification for a size that the model was seen to refuse or to round."""
        multiple = self.multiple(model)
        for field in ("width", "height"):
            if (size := getattr(spec, field)) % multiple:
                near = size // multiple * multiple
                raise BadSpecification(
                    f"{field}: must be a multiple of {multiple} for the model {model.alias}, as `farm models check` "
                    f"found, such as {near or multiple} or {near + multiple} (given: {size})"
                )

    def _of_this_entry(self, model: Model) -> list[tuple[ModelCheck, bool]]:
        """Return what was found of a model as its entry is now, and whether of the files that are here now.

        Where a file is not here, as on machines that only accept work, it is taken to be the one that was checked.
        """
        found = self._fresh().get(model.alias)
        if not found:
            return []
        if model not in self._entries:
            self._entries[model] = entry_hash(model)
        marks = self._marks.of(model)
        return [(check, agree(check.files, marks)) for check in found.values() if check.entry == self._entries[model]]

    def _fresh(self) -> _Found:
        now = time.monotonic()
        if now - self._looked_at > _FRESH_SECONDS:
            self._looked_at = now
            state = _state(self._file)
            if state != self._state:
                self._state, self._found = state, _read(self._file)
        return self._found


def check_writable(file: Path) -> None:
    """Raise BadSettings if what is found could not be written: known before minutes of checking."""
    folder = file.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadSettings(
            f"what is found would be written to {file}, and this user may not write there; FARM_MODELS_FILE or "
            "FARM_HOME can name another place"
        )


def write_check(file: Path, alias: str, check: ModelCheck) -> None:
    """Write what was found of a model in place of what was found on such a device before.

    The file is replaced whole or stays as it was, also where several checks end at once. Raises BadSettings.
    """
    try:
        with locked(file.parent):
            found = {name: dict(of_devices) for name, of_devices in _read(file).items()}
            found.setdefault(alias, {})[check.device_name] = check
            _replace(file, found)
    except OSError as error:
        raise BadSettings(f"{file}: what was found cannot be written ({error.strerror or error})") from None


def _replace(file: Path, found: _Found) -> None:
    checks = {
        alias: {name: check.model_dump(mode="json") for name, check in of_devices.items()}
        for alias, of_devices in found.items()
    }
    text = json.dumps({"version": _VERSION, "checks": checks}, indent=1, ensure_ascii=False)
    replace_whole(file, text, mode=0o644)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: Path) -> _Found:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"it is of version {content['version']}")
        return {
            alias: {name: ModelCheck.model_validate(check) for name, check in of_devices.items()}
            for alias, of_devices in content["checks"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        words = " ".join(str(error).split())[:200]
        log.warning("what was checked of models cannot be read, and is ignored", extra={"file": file, "error": words})
        return {}
