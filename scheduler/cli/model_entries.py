"""`farm models add` and `farm models check-file`: the registry's file, from the command line."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from scheduler.cli.output import counted, hint, json_option, print_json, print_table, say
from scheduler.local.home import Home
from scheduler.local.new_entries import NewEntry, check_lora, check_model, entry_for, is_lora_folder, is_one_lora
from scheduler.local.weights import missing
from scheduler.services import make_home
from storage.errors import InvalidInput
from storage.settings import Settings, read_settings
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.embedding_words import clash_of
from storage.spec.lora_facts import lora_facts
from storage.spec.lora_header import wrong_in_header
from storage.spec.model_files import not_found, resolved_source
from storage.spec.models import DiffusersModel, Lora, Model
from storage.spec.registry import Registry, comes_with_the_farm, parse_registry, placed
from storage.spec.registry_file import add_entry, add_lora_folder, value_of
from storage.spec.registry_text import read_text
from storage.spec.single_file import look_into

_KINDS = {"models": "model", "loras": "LoRA", "embeddings": "embedding"}
_SET = re.compile(r"([A-Za-z0-9_]+)=(.*)", re.DOTALL)


@click.command()
@click.argument("alias_and_source", metavar="[ALIAS] SOURCE", nargs=-1, required=True)
@click.option("--lora", "is_lora", is_flag=True, help="It is a LoRA (files say so themselves; repositories do not).")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the entry, such as sampler=euler or width=1024; may be repeated (all keys: examples/models.toml).",
)
@click.option("--default", "is_default", is_flag=True, help="Render with it where a request names no model.")
@json_option
def add(
    alias_and_source: tuple[str, ...], is_lora: bool, given: tuple[str, ...], is_default: bool, as_json: bool
) -> None:
    """Add a model or LoRA to the registry.

    SOURCE is a safetensors file (checkpoint or LoRA), a folder in Diffusers layout, a folder of LoRAs, or a hub id.
    Without an ALIAS its name becomes one. What its files say of it is looked up: kind, size, base, rank, trigger words,
    licence. The entry is checked before it is written, and everything else in the registry's file stays as it is.
    """
    if len(alias_and_source) > 2:
        raise click.UsageError("give one SOURCE, and before it an ALIAS if its name shall not be it")
    if is_lora and is_default:
        raise click.UsageError("--default is for models; a picture switches a LoRA on")
    *aliases, source = alias_and_source
    settings = read_settings()
    path = settings.local_models_file
    if path.parent == settings.home:
        make_home(settings)
    # Here as on the rest of the command line, paths start where it is typed.
    keys = placed(_keys_and_values(given), Path.cwd())
    source = resolved_source(source, Path.cwd())
    if is_lora_folder(source) and not ((is_lora or aliases) and is_one_lora(source, keys)):
        _add_folder(path, source, unfit=bool(aliases or keys or is_default), as_json=as_json)
    else:
        is_lora = is_lora or is_lora_folder(source)
        entry = entry_for(source, alias=aliases[0] if aliases else None, is_lora=is_lora)
        if entry.table == "loras":
            check_lora({**entry.keys, **keys})
        elif entry.table == "models":
            check_model(entry.alias, {**entry.keys, **keys})
        if entry.table != "models" and is_default:
            raise click.UsageError("--default is for models; a picture switches a LoRA on")
        _add_entry(path, replace(entry, keys={**entry.keys, **keys}), is_default=is_default, as_json=as_json)
    say_who_follows(settings)


def _add_entry(path: Path, entry: NewEntry, *, is_default: bool, as_json: bool) -> None:
    alias, facts = entry.alias, "; ".join(entry.facts)
    registry = add_entry(*(path, entry.table, alias, entry.keys), default=is_default, comments=[facts] if facts else [])
    tables: dict[str, Mapping[str, Model | Lora]] = {"loras": registry.loras, "embeddings": registry.embeddings}
    added = tables.get(entry.table, registry.models)[alias]
    if as_json:
        print_json({"file": str(path), **added.model_dump(mode="json", exclude_none=True), "facts": list(entry.facts)})
    else:
        click.echo(f"added {_KINDS[entry.table]} {alias} to {path}: {_state(added)}")
        if facts:
            click.echo(f"  {facts}")
        if entry.table == "models" and comes_with_the_farm(alias):
            click.echo(f"  it takes the place of the {alias} that comes with the farm")
    if entry.table == "embeddings" and (clash := clash_of(alias)):
        say(f"in prompts {clash}")


def _add_folder(path: Path, folder: str, *, unfit: bool, as_json: bool) -> None:
    if unfit:
        raise click.UsageError("a folder of LoRAs takes no ALIAS, --set or --default: its files' names are the aliases")
    registry = add_lora_folder(path, folder)
    added = [lora for lora in registry.loras.values() if Path(lora.source).parent == Path(folder)]
    if as_json:
        print_json({"file": str(path), "folder": folder, "loras": [lora.alias for lora in added]})
        return
    click.echo(f"added the folder of LoRAs {folder} to {path}: {counted(len(added), 'LoRA')}")
    print_table(["LORA", "WHAT ITS FILE SAYS"], ((lora.alias, "; ".join(_said_of(lora))) for lora in added))


def _said_of(lora: Lora) -> list[str]:
    wrong = wrong_in_header(lora, None)
    said = lora_facts(look_into(Path(lora.source)).header).words
    return [*said, *([f"it cannot be used: {wrong}"] if wrong else [])]


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
        text = read_text(path)
    except FileNotFoundError:
        raise InvalidInput(f"there is no {path}; the farm uses the models that come with it") from None
    registry = parse_registry(text, where=str(path), folder=path.absolute().parent)
    entries: dict[str, Model | Lora] = {f"models.{alias}": model for alias, model in registry.models.items()}
    entries |= {f"loras.{alias}": lora for alias, lora in registry.loras.items()}
    entries |= {f"embeddings.{alias}": one for alias, one in registry.embeddings.items()}
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
            raise click.UsageError(f"--set {found[1]}: SOURCE says that; drop it")
        if found[1] == "alias":
            raise click.UsageError("--set alias: write it before SOURCE")
        if found[1] in entry:
            raise click.UsageError(f"--set {found[1]}: given twice")
        entry[found[1]] = value_of(found[2])
    return entry


def _state(entry: Model | Lora) -> str:
    if gone := not_found(entry):
        return f"there is no {', '.join(gone)}"
    if isinstance(entry, Lora):
        return entry.source
    pipeline = pipeline_of(entry) if isinstance(entry, DiffusersModel) else entry.kind
    fetch = f"; `farm models pull {entry.alias}` downloads it" if missing(entry) else ""
    known = not isinstance(entry, DiffusersModel) or pipeline is None or taken_controls(entry) is not None
    strange = "" if known else " (which this version of the farm does not know)"
    return (
        f"{pipeline or 'a pipeline that is known once it is downloaded'}{strange}, {entry.width}×{entry.height}{fetch}"
    )


def say_who_follows(settings: Settings) -> None:
    """Say which processes are to use the entry, and when."""
    if not settings.embedded:
        say("scheduler processes, APIs and workers of this machine follow the file; copy it to the others")
    elif Home(settings).running() is not None:
        say("the farm that runs here follows the file: it can be used in a moment")
