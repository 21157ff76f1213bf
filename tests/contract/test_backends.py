"""What every backend and every model that it loads must do (`worker.rendering.backend`), on both model kinds."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from storage.errors import RenderFailed
from storage.objects.folder import LocalObjects
from storage.objects.inputs import reference_of
from storage.spec.picture import Request, Spec
from storage.spec.registry import Registry, parse_registry
from tests.pipelines.pixels import largest_difference, pixels
from worker.devices import Device
from worker.rendering.backend import Abandoned, Backend, BackendResources, LoadedModel
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend, open_backends

STEPS = 3
_COMMON = f"width = 64\nheight = 64\nnum_inference_steps = {STEPS}\nguidance_scale = 5.0\nbatch_limit = 4\n"
REGISTRY = parse_registry(
    f"""
    [models.diffusers]
    kind = "diffusers"
    source = "shipped:shapes"
    {_COMMON}
    [models.simulated]
    kind = "simulated"
    seconds_per_step = 0
    seconds_per_step_and_picture = 0
    fault = {{ kind = "error", prompt = "poison" }}
    {_COMMON}
    """,
    where="here",
)
#: What each kind cannot render: an input that nobody stored; a prompt that the simulated model is told to fail at.
UNRENDERABLE: Mapping[str, Mapping[str, object]] = {
    "diffusers": {"prompt": None, "prompt_embeds": reference_of(b"never stored")},
    "simulated": {"prompt": "poison"},
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One backend and a model for it."""

    name: str
    backend: Backend
    registry: Registry

    def load(self, shared: LoadedModel | None = None) -> LoadedModel:
        return self.backend.load(self.registry[self.name], shared=shared)

    def spec(self, seed: int, **fields: object) -> Spec:
        asked = {"prompt": f"a large star {seed}", "model": self.name} | fields
        return self.registry.resolve(Request.parse(asked), seed=seed)

    def specs(self, *seeds: int) -> list[Spec]:
        return [self.spec(seed) for seed in seeds]


@pytest.fixture(scope="session")
def resources(tmp_path_factory: pytest.TempPathFactory) -> BackendResources:
    folder = tmp_path_factory.mktemp("backends")
    return BackendResources(inputs=InputCache(LocalObjects(folder / "objects")), loras={}, home=folder)


@pytest.fixture(scope="session", params=["simulated", "diffusers"])
def kind(request: pytest.FixtureRequest, resources: BackendResources) -> Kind:
    backend = open_backend(request.param, Device("cpu", 0), resources)
    return Kind(name=request.param, backend=backend, registry=REGISTRY)


@pytest.fixture(scope="session")
def model(kind: Kind) -> LoadedModel:
    """The kind's model, loaded once for all tests that leave it as it was."""
    return kind.load()


def silent() -> None:
    """Listen to steps and do nothing."""


# -- pictures --------------------------------------------------------------------------------------------------


def test_every_specification_gets_one_picture_of_its_size(kind: Kind, model: LoadedModel) -> None:
    specs = [spec.model_copy(update={"width": 64, "height": 96}) for spec in kind.specs(1, 2, 3)]
    assert [picture.size for picture in model.render(specs, silent).pictures] == [(64, 96)] * 3


def test_pictures_come_in_the_order_of_their_specifications(kind: Kind, model: LoadedModel) -> None:
    forwards, backwards = pixels(model, kind.specs(1, 2, 3)), pixels(model, kind.specs(3, 2, 1))
    assert largest_difference(forwards, backwards[::-1]) <= 1
    assert largest_difference(forwards, backwards) > 1


def test_the_same_seed_draws_the_same_pixels(kind: Kind, model: LoadedModel) -> None:
    assert (pixels(model, kind.specs(1, 2)) == pixels(model, kind.specs(1, 2))).all()


def test_a_model_that_is_loaded_again_draws_the_same_pixels(kind: Kind, model: LoadedModel) -> None:
    assert (pixels(model, kind.specs(1, 2)) == pixels(kind.load(), kind.specs(1, 2))).all()


def test_another_seed_draws_other_pixels(kind: Kind, model: LoadedModel) -> None:
    one, other = pixels(model, [kind.spec(1, prompt="a star"), kind.spec(2, prompt="a star")])
    assert largest_difference(one, other) > 1


def test_a_picture_does_not_depend_on_its_neighbours_beyond_rounding(kind: Kind, model: LoadedModel) -> None:
    together = pixels(model, kind.specs(1, 2, 3, 4))
    alone = np.concatenate([pixels(model, [spec]) for spec in kind.specs(1, 2, 3, 4)])
    among_others = pixels(model, kind.specs(9, 8, 1, 2))[2:]
    assert largest_difference(together, alone) <= 1
    assert largest_difference(together[:2], among_others) <= 1


def test_a_model_that_shares_the_weights_of_another_draws_the_same(kind: Kind, model: LoadedModel) -> None:
    shared = kind.load(shared=model)
    assert (pixels(shared, kind.specs(1, 2)) == pixels(model, kind.specs(1, 2))).all()


# -- steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures", [1, 3])
def test_each_step_of_a_call_is_reported_once(kind: Kind, model: LoadedModel, pictures: int) -> None:
    heard: list[int] = []
    model.render(kind.specs(*range(pictures)), lambda: heard.append(1))
    assert len(heard) == STEPS


@pytest.mark.parametrize("step", [1, STEPS])
def test_what_a_listener_abandons_ends_at_that_step_and_the_model_goes_on(
    kind: Kind, model: LoadedModel, step: int
) -> None:
    before = pixels(model, kind.specs(1, 2))
    heard: list[int] = []

    def abandon() -> None:
        heard.append(1)
        if len(heard) == step:
            raise Abandoned

    with pytest.raises(Abandoned):
        model.render(kind.specs(1, 2), abandon)
    assert len(heard) == step
    assert (pixels(model, kind.specs(1, 2)) == before).all()


# -- failures --------------------------------------------------------------------------------------------------


def test_a_specification_that_fails_leaves_the_model_as_it_was(kind: Kind, model: LoadedModel) -> None:
    before = pixels(model, kind.specs(1, 2))
    with pytest.raises(RenderFailed):
        model.render([kind.spec(3, **UNRENDERABLE[kind.name])], silent)
    assert (pixels(model, kind.specs(1, 2)) == before).all()


def test_a_model_of_another_kind_is_refused(kind: Kind) -> None:
    [other] = REGISTRY.models.keys() - {kind.name}
    with pytest.raises(TypeError, match=f"{other} is not a {kind.name} model"):
        kind.backend.load(REGISTRY[other])


# -- recipe ----------------------------------------------------------------------------------------------------


def test_the_recipe_is_json_and_names_the_kind(kind: Kind, model: LoadedModel) -> None:
    recipe = model.render(kind.specs(1), silent).recipe
    assert recipe["kind"] == kind.name
    assert json.loads(json.dumps(recipe)) == recipe


def test_the_recipe_does_not_depend_on_the_pictures(kind: Kind, model: LoadedModel) -> None:
    assert model.render(kind.specs(1), silent).recipe == model.render(kind.specs(2, 3), silent).recipe


# -- memory ----------------------------------------------------------------------------------------------------


def test_saving_memory_is_agreed_to_once_and_pictures_are_still_made(kind: Kind) -> None:
    model = kind.load()
    assert model.save_memory() is True
    assert model.save_memory() is False
    assert len(model.render(kind.specs(1, 2), silent, at_most=2).pictures) == 2


def test_a_model_needs_no_more_memory_than_there_is(kind: Kind) -> None:
    assert 0 <= kind.backend.needed_memory(REGISTRY[kind.name]) < kind.backend.available_memory()


def test_a_model_that_nothing_refers_to_is_gone_once_memory_is_released(kind: Kind) -> None:
    model = kind.load()
    model.render(kind.specs(1), silent)
    reference = weakref.ref(model)
    del model
    kind.backend.release_memory()
    gc.collect()
    assert reference() is None


# -- opening ---------------------------------------------------------------------------------------------------


def test_equal_hardware_has_one_name(kind: Kind, resources: BackendResources) -> None:
    again = open_backend(kind.name, Device("cpu", 0), resources)
    assert again.hardware_name() == kind.backend.hardware_name() != ""


def test_only_the_kinds_that_are_served_are_opened(resources: BackendResources) -> None:
    assert list(open_backends({"simulated"}, Device("cpu", 0), resources)) == ["simulated"]


#: What runs without a device of its own: supervisor, parent, and a worker that only pretends to have one.
_LIGHT = {
    "supervisor": "import worker.process.supervisor",
    "parent": "import worker.process.parent",
    "simulated worker": """
from pathlib import Path
from storage.objects.folder import LocalObjects
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backends
resources = BackendResources(inputs=InputCache(LocalObjects(Path("nowhere"))), loras={}, home=Path("nowhere"))
open_backends({"simulated"}, Device("simulated", 0), resources)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("process", _LIGHT)
def test_a_light_process_never_imports_torch(process: str) -> None:
    program = f"{_LIGHT[process]}\nimport sys\nprint(*{{'torch', 'diffusers', 'transformers'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
