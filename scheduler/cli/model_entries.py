"""`farm models add` and `farm models check-file`: the registry's file, from the command line."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from scheduler.cli.output import counted, hint, json_option, print_json, print_table, say
from scheduler.local.home import Home
from scheduler.local.weights import missing
from scheduler.services import make_home
from storage.errors import BadSettings, InvalidInput
from storage.settings import Settings, read_settings
from storage.spec.capabilities import pipeline_of
from storage.spec.model_files import named_folder, not_found, resolved_source
from storage.spec.models import DiffusersModel, Lora, Model
from storage.spec.registry import Registry, parse_registry
from storage.spec.registry_file import add_entry, value_of

_SET = re.compile(r"([A-Za-z0-9_]+)=(.*)", re.DOTALL)


@click.command()
@click.argument("alias")
@click.argument("source")
@click.option("--lora", "is_lora", is_flag=True, help="It is a LoRA, not a model.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the entry, such as sampler=euler or width=1024; may be repeated (all keys: examples/models.toml).",
)
@click.option("--default", "is_default", is_flag=True, help="Render with it where a request names no model.")
@json_option
def add(alias: str, source: str, is_lora: bool, given: tuple[str, ...], is_default: bool, as_json: bool) -> None:
    """Add a model or LoRA to the registry.

    SOURCE is a hub id, a folder in Diffusers layout or, of a LoRA, a safetensors file. The entry is checked before it
    is written, and everything else in the file stays as it is.
    """
    if is_lora and is_default:
        raise click.UsageError("--default is for models; a picture switches a LoRA on")
    settings = read_settings()
    path = settings.local_models_file
    if path.parent == settings.home:
        make_home(settings)
    kind = {} if is_lora else {"kind": "diffusers"}
    entry = {**kind, "source": resolved_source(source, Path.cwd()), **_keys_and_values(given)}
    _check_there(entry["source"], is_lora=is_lora)
    registry = add_entry(path, "loras" if is_lora else "models", alias, entry, default=is_default)
    added = registry.loras[alias] if is_lora else registry.models[alias]
    if as_json:
        print_json({"file": str(path), **added.model_dump(mode="json", exclude_none=True)})
    else:
        click.echo(f"added {'LoRA' if is_lora else 'model'} {alias} to {path}: {_state(added)}")
    say_who_follows(settings)


@click.command("check-file")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@json_option
@click.pass_context
def check_file(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Check a registry's file, by default the one that this farm uses.

    Exits with 2 if an entry is wrong, or names a folder that is not on this machine.
    """
    path = file or read_settings().local_models_file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"there is no {path}; the farm uses the models that come with it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"model registry {path}: {getattr(error, 'strerror', None) or error}") from None
    registry = parse_registry(text, where=str(path), folder=path.absolute().parent)
    entries: dict[str, Model | Lora] = {f"models.{alias}": model for alias, model in registry.models.items()}
    entries |= {f"loras.{alias}": lora for alias, lora in registry.loras.items()}
    gone = sum(bool(not_found(entry)) for entry in entries.values())
    if as_json:
        states = {name: {"state": _state(entry), "not_found": not_found(entry)} for name, entry in entries.items()}
        print_json({"file": str(path), "default": registry.default, "entries": states})
    else:
        print_table(["ENTRY", "STATE"], ((name, _state(entry)) for name, entry in entries.items()))
        hint(f"{path}: {counted(len(registry.models), 'model')}, default {registry.default}{_of_loras(registry)}")
    context.exit(2 if gone else 0)


def _of_loras(registry: Registry) -> str:
    return f", {counted(len(registry.loras), 'LoRA')}" if registry.loras else ""


def _keys_and_values(given: Iterable[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for one in given:
        found = _SET.fullmatch(one)
        if found is None:
            raise click.UsageError(f"--set {one[:60]!r}: expected KEY=VALUE, such as --set sampler=euler")
        if found[1] in ("kind", "source"):
            raise click.UsageError(f"--set {found[1]}: SOURCE and --lora say that; drop it")
        if found[1] in entry:
            raise click.UsageError(f"--set {found[1]}: given twice")
        entry[found[1]] = value_of(found[2])
    return entry


def _check_there(source: str, *, is_lora: bool) -> None:
    """Raise InvalidInput if a source is a folder or file that is not on this machine, or is no model."""
    entry = (
        Lora(alias="added", source=source)
        if is_lora
        else DiffusersModel(alias="added", kind="diffusers", source=source)
    )
    if gone := not_found(entry):
        raise InvalidInput(f"there is no {gone[0]}; nothing was written")
    folder = named_folder(entry)
    if not is_lora and folder is not None and not folder.joinpath("model_index.json").is_file():
        raise InvalidInput(f"{folder} is no folder in Diffusers layout (no model_index.json); nothing was written")


def _state(entry: Model | Lora) -> str:
    if gone := not_found(entry):
        return f"there is no {', '.join(gone)}"
    if isinstance(entry, Lora):
        return entry.source
    pipeline = pipeline_of(entry) if isinstance(entry, DiffusersModel) else entry.kind
    fetch = f"; `farm models pull {entry.alias}` downloads it" if missing(entry) else ""
    return f"{pipeline or 'a pipeline that is known once it is downloaded'}, {entry.width}×{entry.height}{fetch}"


def say_who_follows(settings: Settings) -> None:
    """Say which processes are to use the entry, and when."""
    if not settings.embedded:
        say("scheduler processes, APIs and workers of this machine follow the file; copy it to the others")
    elif Home(settings).running() is not None:
        say("the farm that runs here follows the file: it can be used in a moment")
