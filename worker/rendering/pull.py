"""Downloads a registered model's weights ahead of its first picture: `farm models pull ALIAS` runs this.

python -m worker.rendering.pull ALIAS
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import diffusers
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from storage.errors import FarmError, InvalidInput, ModelUnavailable
from storage.settings import read_settings
from storage.spec.model_files import configs_of, named_folder, not_found
from storage.spec.models import DiffusersModel, Lora, Model, Weights
from storage.spec.registry import read_registry

#: How single files are put together: all of a repository but its weights.
_CONFIGURATION = ("*.json", "*/*.json", "*/*.txt")

# Errors are reported once, by `main`.
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()


@click.command()
@click.argument("alias")
def main(alias: str) -> None:
    """Download the weights of a model or LoRA, safetensors only; files that are here are not downloaded again."""
    try:
        registry = read_registry(read_settings())
        words = {**registry.embeddings, **registry.loras}
        entry = words[alias] if alias in words else registry[alias]
        if gone := not_found(entry):
            raise ModelUnavailable(f"there is no {', '.join(gone)} on this machine; correct `source` in the registry")
        for config in configs_of(entry):
            click.echo(f"{config.source}: {_fetched(config, files=_CONFIGURATION)}")
        for weights in _needed(entry):
            if named_folder(weights) is not None:
                click.echo(f"{weights.source}: on this machine")
            else:
                click.echo(f"{weights.source}: {_fetched(weights)}")
    except FarmError as error:
        click.echo(f"farm: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidInput) else 3)


def _needed(entry: Model | Lora) -> list[Any]:
    if isinstance(entry, DiffusersModel):
        return list(entry.parts)
    return [entry] if isinstance(entry, Lora) else []


def _fetched(weights: Any, *, files: Sequence[str] = ()) -> str:
    """Download weights, or these files, and return their folder. Raises ModelUnavailable."""
    try:
        if files:
            folder = snapshot_download(weights.source, allow_patterns=list(files))
        elif isinstance(weights, DiffusersModel):
            folder = _pipeline(weights)
        else:
            folder = snapshot_download(weights.source, revision=weights.revision, allow_patterns=_files(weights))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelUnavailable(f"{weights.source}: {_reason(error, weights)}") from None
    return str(folder)


def _pipeline(model: DiffusersModel) -> str:
    """Download what `DiffusersBackend` will load: the parts of the pipeline, and of the prior that its card names."""
    options = {"variant": model.variant, "use_safetensors": True}
    if not model.safety_checker:
        options["safety_checker"] = None
    folder = DiffusionPipeline.download(model.source, revision=model.revision, load_connected_pipeline=True, **options)
    card = Path(folder) / "README.md"
    # Downloaded only where the pipeline is one of two.
    for prior in ModelCard.load(card).data.get("prior") or [] if card.exists() else []:
        click.echo(f"{prior}: {DiffusionPipeline.download(prior, **options)}")
    return str(folder)


def _reason(error: BaseException, weights: Any) -> str:
    """Return the first cause in a line or two: the libraries wrap the hub's answer several times."""
    cause = error
    while not isinstance(cause, HfHubHTTPError) and (inner := cause.__cause__ or cause.__context__):
        cause = inner
    if isinstance(cause, RevisionNotFoundError):
        return f"has no revision {weights.revision!r}"
    if isinstance(cause, GatedRepoError):
        return "is gated: request access on its page, then set HF_TOKEN"
    if isinstance(cause, RepositoryNotFoundError):
        return "the hub has no such repository, or it is private (then set HF_TOKEN)"
    if isinstance(weights, DiffusersModel) and "safetensors" in str(cause):
        return f"has no safetensors for each of its parts{f' as {weights.variant}' if weights.variant else ''}"
    message = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return f"cannot be downloaded: {message[:200]}"


def _files(weights: Weights | Lora) -> list[str]:
    if isinstance(weights, Lora):
        return [weights.weight_name or "*.safetensors"]
    middle = f".{weights.variant}" if weights.variant else ""
    return ["config.json", f"*model{middle}.safetensors", f"*model{middle}-*-of-*.safetensors"]


if __name__ == "__main__":
    main()
