"""Pipelines with random weights, once per session, and what they need beside words."""

import functools
import gc
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models import attention_processor

from storage.objects.folder import LocalObjects
from storage.objects.inputs import put_input
from storage.spec.models import Lora
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry, parse_registry
from tests.pipelines import random_weights
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources, LoadedModel
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend

_SMALL = """
kind = "diffusers"
width = 64
height = 64
num_inference_steps = 3
guidance_scale = 5.0
"""


@pytest.fixture(scope="session", autouse=True)
def what_was_imported_is_no_garbage() -> None:
    """Collecting garbage, as a worker does after each failure, need not look through the libraries every time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def signatures_are_read_once() -> Iterator[None]:
    """Diffusers reads the signature of a scheduler's class four times whenever one is made: a third of many tests.

    That of what attention is computed by it reads whenever it is: a tenth of a small UNet's time.
    """
    read = functools.cache(ConfigMixin._get_init_keys)
    processing = functools.cache(_signature_of_method)
    with pytest.MonkeyPatch.context() as patched:
        # Each caller gets a set of its own, out of which it takes names.
        patched.setattr(ConfigMixin, "_get_init_keys", staticmethod(lambda kind: set(read(kind))))
        once = SimpleNamespace(**vars(inspect) | {"signature": lambda method: processing(method.__func__)})
        patched.setattr(attention_processor, "inspect", once)
        yield


def _signature_of_method(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a method that is bound already."""
    return inspect.signature(function.__get__(object()))


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A test that renders by another number of threads leaves the process as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Models:
    """A registry of pipelines with random weights, and a store for their inputs."""

    registry: Registry
    objects: LocalObjects
    backend: Backend

    def backend_with(self, loras: Mapping[str, Lora], home: Path) -> Backend:
        """Return a backend that knows these LoRAs; `backend` itself serves other tests, in any order."""
        resources = BackendResources(inputs=InputCache(self.objects), loras=loras, home=home)
        return open_backend("diffusers", Device("cpu", 0), resources)

    def load(self, alias: str, shared: LoadedModel | None = None) -> LoadedModel:
        return self.backend.load(self.registry[alias], shared=shared)

    def specs(self, alias: str, n: int = 1, **fields: object) -> list[Spec]:
        """Specifications that differ in prompt, seed and conditioning images."""
        nets = len(getattr(self.registry[alias], "controlnets", ()))
        found = []
        for index in range(n):
            asked = {"prompt": f"a red star {index}", "model": alias} | fields
            if nets:
                asked.setdefault("control_images", [self.image(index * nets + net) for net in range(nets)])
            found.append(self.registry.resolve(Request.parse(asked), seed=index))
        return found

    def image(self, seed: int) -> str:
        """A stored image of coloured cells."""
        with tempfile.TemporaryDirectory() as folder:
            return put_input(self.objects, random_weights.picture(Path(folder) / "image.png", seed=seed).read_bytes())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pipelines and ControlNets with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    for name, build in (
        ("sd", random_weights.stable_diffusion),
        ("sdxl", random_weights.sdxl),
        ("kandinsky", random_weights.kandinsky22),
    ):
        build(folder / name)
    random_weights.with_safety_checker(folder / "sd-checked", folder / "sd")
    for base in ("sd", "sdxl"):
        for seed in (1, 2):
            random_weights.controlnet(folder / f"{base}-net{seed}", folder / base, seed=seed)
    for seed, name in enumerate(("ink", "oil")):
        random_weights.lora(folder / name, folder / "sd", seed=seed)
    return folder


@pytest.fixture(scope="session")
def models(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    entries = [
        f'[models.{name}]\nsource = "{weights / base}"\ncontrolnets = {[str(weights / net) for net in nets]}{_SMALL}'
        for name, base, nets in (
            ("sd", "sd", ()),
            ("sdxl", "sdxl", ()),
            ("kandinsky", "kandinsky", ()),
            ("sd-control", "sd", ("sd-net1",)),
            ("sd-two", "sd", ("sd-net1", "sd-net2")),
            ("sdxl-control", "sdxl", ("sdxl-net1",)),
            ("sdxl-two", "sdxl", ("sdxl-net1", "sdxl-net2")),
        )
    ]
    entries += [f'[loras.{name}]\nsource = "{weights / name}"\nmodels = ["sd"]' for name in ("ink", "oil")]
    entries += [
        f'[models.{name}]\nsource = "{weights / "sd-checked"}"\nsafety_checker = {checked}{_SMALL}'
        for name, checked in (("sd-checked", "true"), ("sd-unchecked", "false"))
    ]
    objects = LocalObjects(tmp_path_factory.mktemp("objects"))
    registry = parse_registry("\n".join(entries), where="here")
    resources = BackendResources(inputs=InputCache(objects), loras=registry.loras, home=tmp_path_factory.mktemp("home"))
    backend = open_backend("diffusers", Device("cpu", 0), resources)
    return Models(registry=registry, objects=objects, backend=backend)


@pytest.fixture(scope="session")
def loaded(models: Models) -> Callable[[str], LoadedModel]:
    """Models by alias, each loaded once per session."""
    opened: dict[str, LoadedModel] = {}

    def get(alias: str) -> LoadedModel:
        if alias not in opened:
            opened[alias] = models.load(alias)
        return opened[alias]

    return get
