"""`farm loras`: the registered LoRAs, as their entries and files say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from scheduler.cli.output import counted, hint, json_option, print_json, print_table
from storage.settings import read_settings
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.lora_facts import lora_facts
from storage.spec.lora_header import wrong_in_header
from storage.spec.model_files import named_folder, not_found
from storage.spec.models import SINGLE_FILE, DiffusersModel, Lora, Model
from storage.spec.registry import Registry, read_registry
from storage.spec.single_file import look_into


@click.command()
@click.option("--model", metavar="ALIAS", help="Only those that this model can use.")
@json_option
def loras(model: str | None, as_json: bool) -> None:
    """List the registered LoRAs.

    Shows where each is, the models that its entry names, and what its file says of it: base, rank, trigger words,
    licence. A picture switches one on with --lora ALIAS=SCALE.
    """
    registry = read_registry(read_settings())
    wanted = None if model is None else registry[model]
    rows = [_row(lora) for lora in registry.loras.values() if wanted is None or _fits(lora, wanted)]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["LORA", "SOURCE", "MODELS", "WHAT ITS FILE SAYS"],
        ((row["alias"], row["source"], ", ".join(row["models"]) or "any", "; ".join(row["facts"])) for row in rows),
    )
    hint(counted(len(rows), "LoRA") + _where(registry))


def _row(lora: Lora) -> dict[str, Any]:
    return {
        **lora.model_dump(mode="json", exclude_none=True),
        "facts": list(_facts(lora)),
        "not_found": not_found(lora),
    }


def _facts(lora: Lora) -> Iterator[str]:
    """Yield what is said of a LoRA whose file is here; of one in a folder or on the hub, its worker knows."""
    path = named_folder(lora)
    if gone := not_found(lora):
        yield f"there is no {', '.join(gone)}"
    elif wrong := wrong_in_header(lora, None):
        yield wrong
    elif path is not None and path.name.endswith(SINGLE_FILE):
        yield from lora_facts(look_into(Path(path)).header).words


def _fits(lora: Lora, model: Model) -> bool:
    if not isinstance(model, DiffusersModel) or "loras" not in (taken_controls(model) or {"loras"}):
        return False
    return (not lora.models or model.alias in lora.models) and not wrong_in_header(lora, pipeline_of(model))


def _where(registry: Registry) -> str:
    return "" if registry.lora_folder is None else f"; what is put into {registry.lora_folder} is found, too"
