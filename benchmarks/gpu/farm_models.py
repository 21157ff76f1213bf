"""The farm's own loading and rendering of the random pipelines: saved once in Diffusers' layout, and registered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from benchmarks.gpu.architectures import prompt_of
from benchmarks.gpu.bench import Bench, dtype_name
from benchmarks.gpu.speed import steps_of
from storage.objects.inputs import ObjectReader
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry, parse_registry
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend

_PIPELINES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def saved(bench: Bench, name: str) -> Path:
    """Return a folder with the pipeline's weights as safetensors, in the precision of the run; written once."""
    folder = bench.folder / name
    if not folder.exists():
        unfinished = bench.folder / f"{name}.unfinished"
        bench.pipeline(name).save_pretrained(unfinished, safe_serialization=True)
        unfinished.rename(folder)
    return folder


def entry(bench: Bench, name: str, *, alias: str, batch_limit: int, **running: str) -> str:
    """Return a model's entry of a `models.toml`."""
    arch = bench.arch(name)
    fields: Mapping[str, Any] = {
        "kind": "diffusers",
        "source": str(saved(bench, name)),
        "pipeline": _PIPELINES[name],
        "width": arch.side,
        "height": arch.side,
        "num_inference_steps": steps_of(bench),
        "guidance_scale": 7.5,
        "batch_limit": batch_limit,
        "dtype": dtype_name(bench.dtype),
        **running,
    }
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in fields.items()]
    return "\n".join([f"[models.{alias}]", *lines, ""])


def registry_of(*entries: str) -> Registry:
    """Return the registry that these entries make."""
    return parse_registry("\n".join(entries), where="benchmarks.gpu")


def specs_of(registry: Registry, alias: str, n: int, *, first: int = 0) -> list[Spec]:
    """Return specifications with prompts and seeds of their own."""
    return [
        registry.resolve(Request.parse({"prompt": prompt_of(seed), "model": alias}), seed=seed)
        for seed in range(first, first + n)
    ]


def backend_of(bench: Bench) -> Backend:
    """Open the farm's backend on this process's device."""
    # No picture of this benchmark has conditions.
    resources = BackendResources(inputs=InputCache(cast("ObjectReader", None)), loras={}, home=bench.folder)
    return open_backend("diffusers", Device(bench.device, 0), resources)
