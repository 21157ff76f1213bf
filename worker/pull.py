"""Fetches a registered model's weights ahead of its first picture: `farm models pull ALIAS` runs this.

python -m worker.pull ALIAS
"""

import sys
from pathlib import Path
from typing import Any

import click
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from storage.errors import FarmError, InvalidInput, ModelUnavailable
from storage.models import DiffusersModel, Lora, Model, Weights
from storage.registry import read_registry
from storage.settings import read_settings
from worker.weights import folder_of


@click.command()
@click.argument("alias")
def main(alias: str) -> None:
    """Fetch the weights of a model or LoRA: resumable, safetensors only, with HF_TOKEN where the hub wants one."""
    try:
        registry = read_registry(read_settings())
        for weights in _needed(registry.loras[alias] if alias in registry.loras else registry[alias]):
            if Path(folder_of(weights)).exists():
                click.echo(f"{weights.source}: on this machine")
            else:
                click.echo(f"{weights.source}: {_fetched(weights)}")
    except FarmError as error:
        click.echo(f"farm: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidInput) else 3)


def _needed(entry: Model | Lora) -> list[Any]:
    if isinstance(entry, DiffusersModel):
        return [entry, *entry.controlnets]
    return [entry] if isinstance(entry, Lora) else []


def _fetched(weights: Any) -> str:
    """The folder of what was fetched. Raises ModelUnavailable."""
    try:
        if isinstance(weights, DiffusersModel):
            folder = DiffusionPipeline.download(
                weights.source, revision=weights.revision, variant=weights.variant, use_safetensors=True
            )
        else:
            folder = snapshot_download(weights.source, revision=weights.revision, allow_patterns=_files(weights))
    except RepositoryNotFoundError:
        raise ModelUnavailable(
            f"{weights.source}: the hub has no such repository, or it is private or gated: set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ModelUnavailable(f"{weights.source}: has no revision {weights.revision!r}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelUnavailable(f"{weights.source}: cannot be fetched: {_first_cause(error)}") from None
    return str(folder)


def _first_cause(error: BaseException) -> str:
    """What went wrong at first, in one line: libraries wrap an unreachable hub several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _files(weights: Weights | Lora) -> list[str]:
    if isinstance(weights, Lora):
        return [weights.weight_name or "*.safetensors"]
    middle = f".{weights.variant}" if weights.variant else ""
    return ["config.json", f"*model{middle}.safetensors", f"*model{middle}-*-of-*.safetensors"]


if __name__ == "__main__":
    main()
