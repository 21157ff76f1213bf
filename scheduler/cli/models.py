"""`farm models`: which there are, what each takes and how it is run, and their weights."""

import subprocess
import sys
from typing import Any

import click

from scheduler.cli.output import json_option, print_json, print_table
from scheduler.local.weights import missing
from scheduler.services import open_services
from storage.fleet.workers import SILENT_SECONDS
from storage.settings import read_settings
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.models import DiffusersModel, Model, Running
from storage.spec.registry import read_registry


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """The registered models: what they are, whether their weights are on this machine, how many workers serve each."""
    if context.invoked_subcommand is not None:
        return
    settings = read_settings()
    registry = read_registry(settings)
    serving = open_services(settings).workers
    rows = [
        {
            **model.model_dump(mode="json", exclude_none=True),
            "default": alias == registry.default,
            "missing": missing(model),
            "workers": len(serving.serving(alias, within_seconds=SILENT_SECONDS)),
        }
        for alias, model in registry.models.items()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["MODEL", "KIND", "SOURCE", "WEIGHTS", "SIZE", "STEPS", "GUIDANCE", "SAMPLER", "BATCH", "WORKERS"],
        (
            (
                row["alias"] + (" (default)" if row["default"] else ""),
                row["kind"],
                " + ".join([row.get("source", ""), *(net["source"] for net in row.get("controlnets", ()))]),
                "to be fetched" if row["missing"] else "here",
                f"{row['width']}×{row['height']}",
                row["num_inference_steps"],
                row["guidance_scale"],
                row.get("sampler") or "model's own",
                row["batch_limit"],
                row["workers"],
            )
            for row in rows
        ),
    )


@models.command()
@click.argument("alias")
@json_option
def show(alias: str, as_json: bool) -> None:
    """What a model takes, what its pictures get by default, and how it is run, and why."""
    registry = read_registry(read_settings())
    model = registry[alias]
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    if as_json:
        print_json(
            model.model_dump(mode="json")
            | {
                "pipeline": pipeline_of(model) if isinstance(model, DiffusersModel) else None,
                "takes": None if taken is None else sorted(taken),
                "loras": _loras(registry.loras, model),
                "missing": missing(model),
            }
        )
        return
    click.echo(f"{alias}: {model.kind}, up to {model.batch_limit} pictures in one call")
    if isinstance(model, DiffusersModel):
        for weights in (model, *model.controlnets):
            version = " ".join(filter(None, [weights.revision, weights.variant]))
            click.echo(f"weights   {weights.source} {version}".rstrip())
        for source in missing(model):
            click.echo(f"          {source} is not on this machine: a worker fetches it, or farm models pull {alias}")
        click.echo(f"pipeline  {pipeline_of(model) or 'not known on this machine'}")
        click.echo(f"takes     {_words(taken)}")
        click.echo(f"loras     {', '.join(_loras(registry.loras, model)) or 'none'}")
    click.echo("\nwhat a request gets that leaves fields out")
    print_table(["FIELD", "DEFAULT"], ((name, value) for name, value in model.defaults.items()))
    if isinstance(model, DiffusersModel):
        click.echo("\nhow it is run")
        print_table(
            ["SETTING", "VALUE", ""],
            (
                (name, "left out" if getattr(model, name) is None else getattr(model, name), field.description)
                for name, field in Running.model_fields.items()
            ),
        )


@models.command()
@click.argument("alias")
@click.pass_context
def pull(context: click.Context, alias: str) -> None:
    """Fetch the weights of a model or LoRA now.

    Safetensors only. Files that are here are not fetched again, so an interrupted fetch is run again to go on. Where
    the hub asks who wants them, it takes HF_TOKEN from the environment.
    """
    registry = read_registry(read_settings())
    if alias not in registry.loras:
        registry[alias]
    # What a pipeline needs of a repository only the libraries that load it know; they are a worker's.
    command = [sys.executable, "-m", "worker.rendering.pull", alias]
    context.exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - an alias of the registry


def _loras(loras: Any, model: Model) -> list[str]:
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    if taken is not None and "loras" not in taken:
        return []
    return [alias for alias, lora in loras.items() if not lora.models or model.alias in lora.models]


def _words(taken: frozenset[str] | None) -> str:
    return "not known on this machine: its worker will say" if taken is None else ", ".join(sorted(taken))
