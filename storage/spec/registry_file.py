"""Write entries into a registry's file, beside what people wrote there: their comments and order stay."""

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import BadSettings, InvalidInput
from storage.spec.registry import Registry, parse_registry
from storage.spec.registry_text import MARK, read_text
from storage.spec.whole_files import locked, replace_whole

_FIRST = """# The models of this farm, beside those that come with it; examples/models.toml shows every key.
builtin = true
default = "shapes"
"""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
#: What stands behind the value may be a comment.
_DEFAULT = re.compile(r"^(default[ \t]*=[ \t]*)(?:\"(?:[^\"\\\r\n]|\\.)*\"|'[^'\r\n]*')", re.MULTILINE)


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

    The file is replaced whole or stays as it was, its line ends too; of several such commands at once each adds its
    own. Raises InvalidInput if the entry is there already or is wrong, BadSettings if the file was wrong before or
    cannot be written.
    """
    above = "".join(f"# {_one_line(comment)}\n" for comment in comments)
    lines = [f"{above}[{table}.{_key(alias)}]", *(f"{name} = {_value(value)}" for name, value in entry.items())]

    def added(text: str, before: Registry) -> str:
        if alias in tomllib.loads(text).get(table, {}):
            raise InvalidInput(f"{path} has an entry [{table}.{alias}] already; edit it there")
        if table == "loras" and (there := before.loras.get(alias)) and there.source != entry.get("source"):
            raise InvalidInput(
                f"{alias} is {there.source} of the folder of LoRAs, and would be another one from now on; "
                "name another ALIAS"
            )
        text = _behind(text, "\n".join(lines))
        return _with_default(text, alias) if default else text

    return _changed(path, added)


def add_lora_folder(path: Path, folder: str) -> Registry:
    """Add `[loras] folder = …` to a registry's file; what the file then says. Raises as `add_entry`."""

    def added(text: str, before: Registry) -> str:
        if before.lora_folder is not None:
            raise InvalidInput(
                f"{path} has a folder of LoRAs already, {before.lora_folder}; put the files there, or edit it"
            )
        return _behind(text, f"[loras]\nfolder = {_value(folder)}")

    return _changed(path, added)


def _changed(path: Path, change: Callable[[str, Registry], str]) -> Registry:
    """Replace what a registry's file says by what `change` makes of it, and of the registry that it was."""
    # What a link names is changed, where it is.
    file, folder = path.resolve(), path.absolute().parent
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent):
            written = _read(path)
            text = written.removeprefix(MARK)
            before = parse_registry(text, where=str(path), folder=folder)
            changed = change(text, before)
            if "\r\n" in text and "\n" not in text.replace("\r\n", ""):
                changed = re.sub(r"(?<!\r)\n", "\r\n", changed)
            after = _parsed(path, changed)
            _check_may_write(path)
            mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
            replace_whole(file, (MARK if written.startswith(MARK) else "") + changed, mode=mode)
    except OSError as error:
        raise BadSettings(f"model registry {path}: cannot be written ({error.strerror or error})") from None
    return after


def _behind(text: str, more: str) -> str:
    """Put lines behind a text, with an empty one between."""
    return f"{text.rstrip(chr(10) + chr(13))}\n\n{more}\n"


def _check_may_write(path: Path) -> None:
    """Raise BadSettings for a file that is write-protected: replacing it would not heed that."""
    if path.exists() and not os.access(path, os.W_OK):
        raise BadSettings(f"model registry {path}: it is write-protected for this user; nothing was written")


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
        return read_text(path)
    except FileNotFoundError:
        return _FIRST


def _with_default(text: str, alias: str) -> str:
    """Return a registry's text with another default: in its place, or before the first table."""
    head, bracket, tables = text.partition("\n[")
    line = f"default = {_value(alias)}"
    found = _DEFAULT.search(head)
    head = f"{head[: found.start()]}{found[1]}{_value(alias)}{head[found.end() :]}" if found else f"{line}\n{head}"
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
