"""Whatever failed before, in loading or in rendering, leaves no trace in later pictures.

`pytest tests/pipelines/test_no_trace.py --sequences 500` for as many sequences; a few dozen in every test run.
"""

import hashlib
import json
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

from storage.errors import ModelUnavailable, RenderFault
from storage.objects.inputs import put_input
from storage.spec.models import DiffusersModel, Lora, Weights
from storage.spec.picture import Spec
from tests.forks import Starter
from tests.pipelines import kohya
from tests.pipelines.conftest import Models
from tests.pipelines.kohya import Kind
from worker.rendering.backend import Abandoned
from worker.rendering.torch_faults import as_fault
from worker.serving.model_cache import ModelCache

#: Models that share weights, and one that does not.
ALIASES = ("sd", "sd", "sd-control", "sd-broken-control", "sdxl")
GOOD, BAD = ("good", "train", "dora", "ink"), ("half", "cut", "gone")
#: What is raised somewhere inside: memory, a broken file, the pipeline, a bad argument.
ERRORS = (
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
    lambda: OSError("Input/output error"),
    lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    lambda: ValueError("not so"),
)


class FailsAt(TorchFunctionMode):
    """Raises an error at the n-th operation on tensors, whichever library does it; a negative n: never."""

    def __init__(self, n: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self._left, self._error = n, error

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self._left -= 1
        if self._left == 0:
            raise self._error()
        return func(*args, **(kwargs or {}))


#: What can fail, and about how many operations on tensors it takes.
PHASES = {"model": 20_000, "loras": 15_000, "picture": 1200}


@dataclass(frozen=True)
class Fault:
    """Where in a picture's making something goes wrong; nowhere by default."""

    phase: str = "nowhere"
    operation: int = 0
    error: Callable[[], Exception] = ERRORS[0]
    abandoned: bool = False

    def at(self, phase: str) -> AbstractContextManager[Any]:
        return FailsAt(self.operation, self.error) if phase == self.phase else nullcontext()

    def on_step(self) -> None:
        if self.abandoned:
            raise Abandoned

    @classmethod
    def drawn(cls, chance: random.Random) -> "Fault":
        if chance.random() < 0.4:
            return Fault(abandoned=chance.random() < 0.1)
        phase = chance.choice([*PHASES, "loras"])
        return Fault(phase, chance.randrange(1, PHASES[phase]), chance.choice(ERRORS))


NOTHING = Fault()


class Farm:
    """A worker's models, with LoRAs and inputs good and bad."""

    def __init__(self, models: Models, folder: Path, weights: Path) -> None:
        self.models = models
        self.files = {
            alias: [
                Lora(alias=name, source=str(source)) for name, source in self._loras(alias, folder, weights).items()
            ]
            for alias in ("sd", "sdxl")
        }
        broken = Weights(source=str(folder / "no-such-net"))
        control = models.registry["sd-control"]
        assert isinstance(control, DiffusersModel)
        self.registry = dict(models.registry.models) | {
            "sd-broken-control": control.model_copy(update={"alias": "sd-broken-control", "controlnets": (broken,)})
        }
        #: Those of the model that renders.
        self.loras: dict[str, Lora] = {}
        self.backend = models.backend_with(self.loras, folder)
        image = models.image(1)
        self.image = image
        # What no model can use: an image, and embeddings of another width.
        self.embeds = (image, self._stored(folder, torch.zeros(77, 33)))

    def _loras(self, alias: str, folder: Path, weights: Path) -> dict[str, Path]:
        pipeline: Any = self.models.load(alias)
        pipeline = pipeline.pipeline
        good = kohya.write(folder / f"{alias}-good.safetensors", pipeline, Kind(alphas=(1.0, 3.0)))
        text = kohya.write(folder / f"{alias}-text.safetensors", pipeline, Kind(unet=(), text=("q_proj", "v_proj")))
        dora = kohya.write(folder / f"{alias}-dora.safetensors", pipeline, Kind(magnitudes=True))
        half = safetensors.torch.load_file(good)
        # Fits the UNet; the last matrix of the last text encoder does not.
        last = [name for name in half if name.endswith("fc2.lora_up.weight")][-1]
        half[last] = torch.zeros(7, 4)
        safetensors.torch.save_file(half, folder / f"{alias}-half.safetensors")
        (folder / f"{alias}-cut.safetensors").write_bytes(good.read_bytes()[:1000])
        cut = folder / f"{alias}-cut.safetensors"
        bad = {"half": folder / f"{alias}-half.safetensors", "cut": cut, "gone": folder / "gone"}
        # SDXL's cross-attention is wider than that for which `ink` was made.
        return {"good": good, "train": text, "dora": dora, "ink": weights / "ink", **bad}

    def _stored(self, folder: Path, tensor: torch.Tensor) -> str:
        file = folder / "embeds.safetensors"
        safetensors.torch.save_file({"prompt_embeds": tensor, "negative_prompt_embeds": tensor.clone()}, file)
        return put_input(self.models.objects, file.read_bytes())

    def plain(self, alias: str) -> Spec:
        images = {"control_images": [self.image]} if alias == "sd-control" else {}
        [spec] = self.models.specs(alias, 1, num_inference_steps=1, **images)
        return spec

    def asked(self, chance: random.Random) -> Spec:
        """A picture as somebody may ask for it; many cannot be made."""
        alias = chance.choice(ALIASES)
        spec = self.plain("sd-control" if "control" in alias else alias)
        changes: dict[str, Any] = {"model": alias, "seed": chance.randrange(9)}
        kind = chance.random()
        if kind < 0.6:
            names = chance.sample(GOOD, chance.randint(1, 2)) + chance.sample(BAD, chance.random() < 0.3)
            changes["loras"] = {name: 1.0 if name == "dora" else chance.choice((1.0, 0.5)) for name in names}
        elif kind < 0.65:
            changes |= {"prompt": "", "prompt_embeds": chance.choice(self.embeds)}
        elif kind < 0.7:
            changes["clip_skip"] = 1
        elif kind < 0.8:
            changes |= {"prompt_weighting": "compel", "prompt": "a (red)1.4 star"}
        elif kind < 0.85 and spec.control_images:
            changes["control_images"] = (self.embeds[1],)
        return spec.model_copy(update=changes)

    def render(self, cache: ModelCache, spec: Spec, fault: Fault = NOTHING) -> tuple[bytes, str]:
        self.loras.clear()
        self.loras.update((lora.alias, lora) for lora in self.files["sdxl" if spec.model == "sdxl" else "sd"])
        with fault.at("model"):
            loaded: Any = cache.get(self.registry[spec.model])
        try:
            with fault.at("loras"), torch.inference_mode():
                loaded.adapters.switch(spec.loras or {})
        except Exception as error:  # noqa: BLE001 - whatever was raised inside
            # As within `render`, where it is done again.
            raise as_fault(error) from None
        with fault.at("picture"):
            rendered = loaded.render([spec], fault.on_step)
        return rendered.pictures[0].tobytes(), json.dumps(rendered.recipe, sort_keys=True)


@pytest.fixture(scope="module")
def farm(models: Models, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Farm:
    return Farm(models, tmp_path_factory.mktemp("loras"), weights)


def test_after_any_faults_a_plain_picture_is_that_of_a_fresh_process(
    farm: Farm, models: Models, starter: Starter, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fresh = {alias: farm.render(_cache(farm), farm.plain(alias)) for alias in ("sd", "sd-control", "sdxl")}
    happened = {"made": 0, "failed": 0}
    for number in range(request.config.getoption("--sequences")):
        chance = random.Random(number)
        cache, told = _cache(farm), []
        for _ in range(chance.randint(1, 4)):
            spec = farm.asked(chance)
            fault = Fault.drawn(chance)
            told.append((spec.model, spec.controls(), fault))
            try:
                farm.render(cache, spec, fault)
                happened["made"] += 1
            except (RenderFault, ModelUnavailable, Abandoned):
                happened["failed"] += 1
        # Those that share something with what has failed.
        for alias, expected in fresh.items() if number % 4 == 0 else [("sd", fresh["sd"])]:
            assert farm.render(cache, farm.plain(alias)) == expected, f"sequence {number}: {alias} after {told}"
    assert min(happened.values()) >= request.config.getoption("--sequences") / 4
    assert (
        _in_a_fresh_process(starter, models, farm.plain("sd"), tmp_path) == hashlib.sha256(fresh["sd"][0]).hexdigest()
    )


def _cache(farm: Farm) -> ModelCache:
    return ModelCache({"diffusers": farm.backend}, capacity=0)


def _in_a_fresh_process(starter: Starter, models: Models, spec: Spec, folder: Path) -> str:
    """The picture's hash, drawn by a process that has imported the libraries and drawn nothing yet."""
    program = """
import sys
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend
from pathlib import Path
from storage.objects.folder import LocalObjects
from storage.objects.inputs import put_input
from storage.spec.models import DiffusersModel
from storage.spec.picture import read_spec
import hashlib, tempfile
model, spec, threads = sys.argv[1:]
folder = Path(tempfile.mkdtemp())
resources = BackendResources(inputs=InputCache(LocalObjects(folder)), loras={}, home=folder)
backend = open_backend("diffusers", Device("cpu", 0), resources)
loaded = backend.load(DiffusersModel.model_validate_json(model))
[picture] = loaded.render([read_spec(spec)], lambda: None, threads=int(threads)).pictures
print(hashlib.sha256(picture.tobytes()).hexdigest())
"""
    model = models.registry[spec.model].model_dump_json()
    said = starter.said(program, model, spec.canonical(), str(torch.get_num_threads()), folder=folder)
    return said.split()[-1]
