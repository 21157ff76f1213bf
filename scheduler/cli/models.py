"""`farm models`: list the registry, show one model in detail, fetch weights."""

import subprocess
import sys
from typing import Any

import click

from scheduler.cli.model_check import check, show_checks
from scheduler.cli.model_entries import add, check_file
from scheduler.cli.output import counted, has_subcommand, json_option, print_json, print_table
from scheduler.cli.reading import services_to_read
from scheduler.local.weights import missing
from storage.fleet.workers import SILENT_SECONDS
from storage.settings import read_settings
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.model_files import not_found
from storage.spec.models import DiffusersModel, Model, Running
from storage.spec.profile_rules import described
from storage.spec.profiles import Profile, profile_of
from storage.spec.registry import read_registry


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the registered models.

    Shows whether their weights are on this machine, and how many workers serve each.
    """
    if not has_subcommand(context, as_json=as_json):
        _list(as_json=as_json)


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the registered models, as `farm models` alone does."""
    _list(as_json=as_json)


def _list(*, as_json: bool) -> None:
    settings = read_settings()
    registry = read_registry(settings)
    serving = services_to_read(settings).workers
    rows = [
        {
            **model.model_dump(mode="json", exclude_none=True),
            "batch_limit": model.batch_limit or "auto",
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
                " + ".join(_sources(registry[row["alias"]])),
                _state(registry[row["alias"]]),
                f"{row['width']}×{row['height']}",
                row["num_inference_steps"],
                row["guidance_scale"],
                row.get("sampler") or "built-in",
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
    """Show a model: its controls, defaults and run settings."""
    registry = read_registry(read_settings())
    model = registry[alias]
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    if as_json:
        print_json(
            model.model_dump(mode="json")
            | {
                "batch_limit": model.batch_limit or "auto",
                "pipeline": pipeline_of(model) if isinstance(model, DiffusersModel) else None,
                "profile": profile.model_dump(mode="json") if (profile := _profile(model)) else None,
                "takes": None if taken is None else sorted(taken),
                "loras": _loras(registry.loras, model),
                "embeddings": _embeddings(registry.embeddings, model),
                "missing": missing(model),
                "checks": []
                if registry.checks is None
                else [one.model_dump(mode="json") for one in registry.checks.of(model)],
            }
        )
        return
    click.echo(f"{alias}: {model.kind}, {_limit(model)} per call")
    if isinstance(model, DiffusersModel):
        for weights in model.parts:
            config = f"(put together as {weights.config})" if weights.config else None
            version = " ".join(filter(None, [weights.revision, weights.variant, config]))
            click.echo(f"weights   {weights.source} {version}".rstrip())
        _show_missing(model)
        click.echo(f"pipeline  {pipeline_of(model) or 'unknown on this machine'}")
        _show_family(_profile(model))
        click.echo(f"takes     {_words(taken)}")
        click.echo(f"loras     {', '.join(_loras(registry.loras, model)) or 'none'}")
        if words := _embeddings(registry.embeddings, model):
            click.echo(f"words     {', '.join(words)} (textual inversions, in prompts and negative prompts)")
        show_checks(registry.checks, model)
    click.echo("\ndefaults")
    print_table(["FIELD", "DEFAULT"], ((name, value) for name, value in model.defaults.items()))
    if isinstance(model, DiffusersModel):
        click.echo("\nrun settings")
        print_table(
            ["SETTING", "VALUE", ""],
            (
                (name, "not set" if getattr(model, name) is None else getattr(model, name), field.description)
                for name, field in Running.model_fields.items()
            ),
        )


@models.command()
@click.argument("alias")
@click.pass_context
def pull(context: click.Context, alias: str) -> None:
    """Download the weights of a model or LoRA.

    Only safetensors files are fetched. Files that are already here are not fetched again, so an interrupted download
    resumes. For gated repositories set HF_TOKEN.
    """
    registry = read_registry(read_settings())
    if alias not in registry.loras and alias not in registry.embeddings:
        registry[alias]
    # What a pipeline needs of a repository only the libraries that load it know; they are a worker's.
    command = [sys.executable, "-m", "worker.rendering.pull", alias]
    context.exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - an alias of the registry


models.add_command(add)
models.add_command(check)
models.add_command(check_file)


def _profile(model: Model) -> Profile | None:
    return profile_of(pipeline_of(model)) if isinstance(model, DiffusersModel) else None


def _show_missing(model: DiffusersModel) -> None:
    gone = not_found(model)
    for source in gone:
        click.echo(f"          there is no {source} on this machine")
    for source in missing(model):
        if source not in gone:
            click.echo(f"          {source} is not on this machine; `farm models pull {model.alias}` fetches it")


def _show_family(profile: Profile | None) -> None:
    for name, meaning in described(profile) if profile else ():
        click.echo(f"{name:<9} {meaning}")


def _limit(model: Model) -> str:
    if model.batch_limit is None:
        return "as many pictures as are best for each device"
    return f"up to {counted(model.batch_limit, 'picture')}"


def _sources(model: Model) -> list[str]:
    return [weights.source for weights in model.parts] if isinstance(model, DiffusersModel) else [""]


def _state(model: Model) -> str:
    if not_found(model):
        return "not found"
    return "not downloaded" if missing(model) else "downloaded"


def _loras(loras: Any, model: Model) -> list[str]:
    taken = taken_controls(model) if isinstance(model, DiffusersModel) else frozenset[str]()
    if taken is not None and "loras" not in taken:
        return []
    return [alias for alias, lora in loras.items() if not lora.models or model.alias in lora.models]


def _embeddings(embeddings: Any, model: Model) -> list[str]:
    return [alias for alias, one in embeddings.items() if not one.models or model.alias in one.models]


def _words(taken: frozenset[str] | None) -> str:
    return "unknown on this machine; its worker knows" if taken is None else ", ".join(sorted(taken))
