"""Write entries into a registry's file, beside what people wrote there: their comments and order stay."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import BadSettings, InvalidInput
from storage.spec.registry import Registry, parse_registry

_FIRST = """# The models of this farm, beside those that come with it; examples/models.toml shows every key.
builtin = true
default = "shapes"
"""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULT = re.compile(r"^default[ \t]*=.*$", re.MULTILINE)


def add_entry(
    path: Path,
    table: str,
    alias: str,
    entry: Mapping[str, Any],
    *,
    default: bool = False,
    comments: Sequence[str] = (),
) -> Registry:
    """Add `[table.alias]` to a registry's file, which is made if it is not there; what the file then says.

    Args:
        comments: lines above the entry.

    The file is replaced whole or stays as it was. Raises InvalidInput if the entry is there already or is wrong,
    BadSettings if the file was wrong before or cannot be written.
    """
    text = _read(path)
    before = parse_registry(text, where=str(path), folder=path.absolute().parent)
    if alias in tomllib.loads(text).get(table, {}):
        raise InvalidInput(f"{path} has an entry [{table}.{alias}] already; edit it there")
    above = "".join(f"# {_one_line(comment)}\n" for comment in comments)
    lines = [f"\n{above}[{table}.{_key(alias)}]", *(f"{name} = {_value(value)}" for name, value in entry.items())]
    added = text.rstrip("\n") + "\n" + "\n".join(lines) + "\n"
    if default:
        added = _with_default(added, alias)
    after = _parsed(path, added)
    if not default and after.default != before.default:
        raise AssertionError("an entry at the end of a file does not change its default")
    _replace(path, added)
    return after


def add_lora_folder(path: Path, folder: str) -> Registry:
    """Add `[loras] folder = …` to a registry's file; what the file then says. Raises as `add_entry`."""
    text = _read(path)
    before = parse_registry(text, where=str(path), folder=path.absolute().parent)
    if before.lora_folder is not None:
        raise InvalidInput(
            f"{path} has a folder of LoRAs already, {before.lora_folder}; put the files there, or edit it"
        )
    added = f"{text.rstrip(chr(10))}\n\n[loras]\nfolder = {_value(folder)}\n"
    after = _parsed(path, added)
    _replace(path, added)
    return after


def _parsed(path: Path, text: str) -> Registry:
    try:
        return parse_registry(text, where=str(path), folder=path.absolute().parent)
    except BadSettings as error:
        raise InvalidInput(f"{error}; nothing was written") from None


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def value_of(text: str) -> Any:
    """Read a value as TOML has it; what is none is a text, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _FIRST
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"model registry {path}: {getattr(error, 'strerror', None) or error}") from None


def _with_default(text: str, alias: str) -> str:
    """Return a registry's text with another default: in its place, or before the first table."""
    head, bracket, tables = text.partition("\n[")
    line = f"default = {_value(alias)}"
    found = _DEFAULT.search(head)
    head = head[: found.start()] + line + head[found.end() :] if found else f"{line}\n{head}"
    return head + bracket + tables


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """Return a value as TOML, which writes numbers, truth values and texts as JSON does."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(name)} = {_value(one)}' for name, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            file.write(text)
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError as error:
        raise BadSettings(f"model registry {path}: cannot be written ({error.strerror})") from None
