"""Under which alias this registry has what another program calls by a file's name, or by a hash."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from storage.spec.model_files import named_folder, public_source
from storage.spec.models import DiffusersModel, Lora
from storage.spec.registry import Registry
from storage.spec.safetensors_header import read_header

#: What trainers write of a LoRA's hash into its header: the one that the web UI writes the first 12 digits of.
_HASH = "sshs_model_hash"
#: Fewer digits would be those of several files.
_LEAST_DIGITS = 8


def model_alias(name: str, registry: Registry) -> str | None:
    """Return the alias of a model that is called by it in another case, or by its file."""
    files = {alias: public_source(one) for alias, one in registry.models.items() if isinstance(one, DiffusersModel)}
    return _by_name(name, registry.models, files)


def lora_alias(name: str, digits: str | None, registry: Registry) -> str | None:
    """Return the alias of a LoRA that is called by it in another case, by its file, or by the beginning of its hash."""
    files = {alias: public_source(one) for alias, one in registry.loras.items()}
    if (alias := _by_name(name, registry.loras, files)) is not None:
        return alias
    if digits is None or len(digits) < _LEAST_DIGITS:
        return None
    return next((alias for alias, one in registry.loras.items() if _stated_hash(one).startswith(digits.lower())), None)


def _by_name(name: str, aliases: Iterable[str], files: Mapping[str, str]) -> str | None:
    wanted = _bare(name)
    return next((alias for alias in aliases if wanted in (_bare(alias), _bare(files.get(alias, alias)))), None)


def _bare(name: str) -> str:
    return PurePath(name).name.casefold().removesuffix(".safetensors")


def _stated_hash(lora: Lora) -> str:
    """Return the hash that a LoRA's file states, empty where it states none or is not at hand."""
    file = named_folder(lora)
    try:
        return read_header(file).metadata.get(_HASH, "").lower() if file is not None and file.is_file() else ""
    except (OSError, ValueError):
        return ""
