"""How the registry says that a model is run is how it is run: every such key, on a loaded pipeline."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.objects.folder import LocalObjects
from storage.spec.models import DiffusersModel, Running
from storage.spec.picture import Request
from storage.spec.registry import Registry, parse_registry
from tests.pipelines import random_weights
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend
from worker.rendering.tuning import is_offloaded

#: What is looked at: a loaded pipeline, and what PyTorch was set to while its UNet was called.
Seen = Callable[[Any, Mapping[str, Any]], object]

FIELDS: Mapping[str, tuple[str, Seen]] = {
    "dtype": ('"bfloat16"', lambda pipeline, _: {part.dtype for part in (pipeline.unet, pipeline.vae)}),
    "vae_slicing": ("true", lambda pipeline, _: pipeline.vae.use_slicing),
    "vae_tiling": ("true", lambda pipeline, _: pipeline.vae.use_tiling),
    "channels_last": (
        "true",
        lambda pipeline, _: pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last),
    ),
    "compile": ('"default"', lambda pipeline, _: pipeline.unet._compiled_call_impl is not None),
    "attention": ('"math"', lambda _, called: called.get("kernels")),
    "tf32": ("true", lambda _, called: called.get("tf32")),
}
#: On a CPU there is nowhere to wait: looked at without loading.
ON_A_GPU = ("offload",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights.smallest(tmp_path_factory.mktemp("smallest") / "sd")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    home = tmp_path_factory.mktemp("home")
    resources = BackendResources(inputs=InputCache(LocalObjects(home)), loras={}, home=home)
    return open_backend("diffusers", Device("cpu", 0), resources)


def registry(folder: Path, entry: str = "") -> Registry:
    head = f'[models.m]\nkind = "diffusers"\nsource = "{folder}"\nwidth = 16\nheight = 16\nnum_inference_steps = 1\n'
    return parse_registry(head + entry, where="here")


def looked_at(backend: Backend, found: Registry, seen: Seen) -> object:
    loaded: Any = backend.load(found["m"])
    called: dict[str, Any] = {}

    def note(*_: Any) -> None:
        called["kernels"] = [str(one) for one in torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)]
        called["tf32"] = torch.backends.cuda.matmul.allow_tf32

    model = found["m"]
    assert isinstance(model, DiffusersModel)
    if model.compile == "none":
        loaded.pipeline.unet.register_forward_pre_hook(note)
        loaded.render([found.resolve(Request.parse({"prompt": "a red star"}), seed=1)], lambda: None)
    return seen(loaded.pipeline, called)


def test_every_key_has_a_case() -> None:
    assert {*FIELDS, *ON_A_GPU} == set(Running.model_fields)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, about its own compiler
@pytest.mark.parametrize("key", FIELDS)
def test_another_value_runs_the_model_in_another_way(folder: Path, backend: Backend, key: str) -> None:
    value, seen = FIELDS[key]
    before = looked_at(backend, registry(folder), seen)
    assert before is not None
    assert looked_at(backend, registry(folder, f"{key} = {value}\n"), seen) != before


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_what_is_offloaded_is_on_gpus_alone(folder: Path, how: str) -> None:
    one = registry(folder, f'offload = "{how}"\n')["m"]
    assert isinstance(one, DiffusersModel)
    assert [is_offloaded(one, Device(kind, 0)) for kind in ("cuda", "mps", "cpu")] == [True, True, False]
