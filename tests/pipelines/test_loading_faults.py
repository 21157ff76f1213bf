"""Whatever fails at whatever point of loading, a plain picture afterwards is that of a fresh process, to the last bit.

Files that are missing, cut short or name what nobody knows; memory that runs out at any part; LoRAs that fail half-way;
ControlNets that are not there; whoever interrupts. `test_no_trace.py` has errors at any operation on tensors.

`pytest tests/pipelines/test_loading_faults.py --sequences 200` for as many sequences.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.errors import ModelUnavailable, RenderFault
from storage.spec.models import DiffusersModel, Lora
from storage.spec.picture import Spec
from tests.forks import Starter
from tests.pipelines.conftest import Models
from tests.pipelines.slots import loop_of, rendered
from tests.pipelines.test_no_trace import BAD, GOOD, FailsAt, Farm
from worker.rendering.torch_faults import as_fault
from worker.serving.model_cache import ModelCache

#: What is wrong with a file while a model is loaded from it.
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "strange": lambda file: file.write_text(
        file.read_text().replace("BlockD", "").replace("Block2D", "BlockOfNobody").replace("gelu", "nobody")
    ),
}
PLACES = {
    "missing": (
        *("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"),
        *("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
        *("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"),
    ),
    "cut short": (
        *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *(
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "scheduler/scheduler_config.json",
        ),
    ),
    "strange": ("unet/config.json", "vae/config.json", "text_encoder/config.json"),
}
#: Of the same weights as the plain one, in its precision and in another; with a ControlNet that is there or not.
ALIASES = ("sd", "spoilt", "spoilt-half", "spoilt-half", "sd-control", "sd-broken-control")
#: About how many operations each phase takes.
OPERATIONS = {"model": 20_000, "loras": 15_000, "picture": 1200}


@dataclass(frozen=True)
class Asked:
    """A picture, and what goes wrong on the way to it."""

    alias: str
    loras: tuple[str, ...] = ()
    file: tuple[str, str] | None = None
    #: At which part that is moved to the device memory runs out.
    memory_at: int = 0
    #: The phase and operation at which somebody interrupts.
    interrupted: tuple[str, int] | None = None
    by_slots: bool = False


def _files() -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from([(how, place) for how, places in PLACES.items() for place in places])


def _interrupts() -> st.SearchStrategy[tuple[str, int]]:
    return st.sampled_from(sorted(OPERATIONS)).flatmap(
        lambda phase: st.tuples(st.just(phase), st.integers(1, OPERATIONS[phase]))
    )


ASKED = st.one_of(
    st.builds(Asked, alias=st.sampled_from(("spoilt", "spoilt-half")), file=_files()),
    st.builds(Asked, alias=st.sampled_from(ALIASES), memory_at=st.integers(1, 8)),
    st.builds(
        Asked,
        alias=st.sampled_from(("sd", "spoilt", "sd-control")),
        loras=st.lists(st.sampled_from(GOOD + BAD), min_size=1, max_size=2, unique=True).map(tuple),
        by_slots=st.booleans(),
    ),
    st.builds(
        Asked,
        alias=st.sampled_from(ALIASES),
        loras=st.sampled_from(((), ("good",), ("train", "good"))),
        interrupted=_interrupts(),
        by_slots=st.booleans(),
    ),
)


class Worker:
    """A worker's models, some of which are spoilt on the disk while they are loaded."""

    def __init__(self, models: Models, farm: Farm, folder: Path) -> None:
        self.models, self.farm, self.folder = models, farm, folder
        plain = models.registry["sd"]
        assert isinstance(plain, DiffusersModel)
        shutil.copytree(plain.source, folder / "spoilt")
        spoilt = plain.model_copy(update={"alias": "spoilt", "source": str(folder / "spoilt")})
        half = spoilt.model_copy(update={"alias": "spoilt-half", "dtype": "bfloat16"})
        self.registry = farm.registry | {"spoilt": spoilt, "spoilt-half": half}
        known: list[Lora] = farm.files["sd"]
        self.backend = models.backend_with({lora.alias: lora for lora in known}, folder)

    def attempt(self, cache: ModelCache, asked: Asked) -> bool:
        """Draw a picture; whether it was made."""
        spec = self.farm.plain("sd-control" if "control" in asked.alias else "sd")
        loras = dict.fromkeys(asked.loras, 1.0) or None
        spec = spec.model_copy(update={"model": asked.alias, "loras": loras, "seed": 5})
        try:
            with self._spoilt(asked.file), _out_of_memory(asked.memory_at), asked_interrupt(asked, "model"):
                loaded: Any = cache.get(self.registry[asked.alias])
            with asked_interrupt(asked, "loras"), torch.inference_mode():
                try:
                    loaded.adapters.switch(spec.loras or {})
                except Exception as error:  # noqa: BLE001 - whatever was raised inside
                    # As within `render`, where it is done again.
                    raise as_fault(error) from None
            with asked_interrupt(asked, "picture"):
                self.picture(loaded, spec, by_slots=asked.by_slots)
        except (RenderFault, ModelUnavailable, KeyboardInterrupt):
            return False
        return True

    def picture(self, loaded: Any, spec: Spec, *, by_slots: bool) -> bytes:
        if by_slots:
            [drawn] = rendered(loop_of(loaded), [spec])
            return drawn.picture.tobytes()
        found: bytes = loaded.render([spec], lambda: None).pictures[0].tobytes()
        return found

    @contextlib.contextmanager
    def _spoilt(self, file: tuple[str, str] | None) -> Iterator[None]:
        if file is None:
            yield
            return
        how, place = file
        path = self.folder / "spoilt" / place
        before = path.read_bytes()
        try:
            FILES[how](path)
            yield
        finally:
            path.write_bytes(before)


def asked_interrupt(asked: Asked, phase: str) -> AbstractContextManager[Any]:
    if asked.interrupted is None or asked.interrupted[0] != phase:
        return nullcontext()
    interrupt: Any = KeyboardInterrupt
    return FailsAt(asked.interrupted[1], interrupt)


@contextlib.contextmanager
def _out_of_memory(part: int) -> Iterator[None]:
    """Let memory run out when the n-th module is moved; 0: never."""
    before, left = torch.nn.Module.to, part

    def to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        nonlocal left
        left -= 1
        if left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return before(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        if part:
            patch.setattr(torch.nn.Module, "to", to)
        yield


_FRESH = """
import hashlib, sys, tempfile
from pathlib import Path
from storage.objects.folder import LocalObjects
from storage.spec.models import DiffusersModel
from storage.spec.picture import read_spec
from tests.pipelines.slots import loop_of, rendered
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend
import torch
model, spec, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
folder = Path(tempfile.mkdtemp())
resources = BackendResources(inputs=InputCache(LocalObjects(folder)), loras={}, home=folder)
loaded = open_backend("diffusers", Device("cpu", 0), resources).load(DiffusersModel.model_validate_json(model))
spec = read_spec(spec)
batch = loaded.render([spec], lambda: None).pictures[0].tobytes()
slots = rendered(loop_of(loaded), [spec])[0].picture.tobytes()
print(hashlib.sha256(batch).hexdigest(), hashlib.sha256(slots).hexdigest())
"""


def test_after_any_faults_of_loading_a_plain_picture_is_that_of_a_fresh_process(
    models: Models,
    weights: Path,
    starter: Starter,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    folder = tmp_path_factory.mktemp("faults")
    worker = Worker(models, Farm(models, folder, weights), folder)
    plain = worker.farm.plain("sd")
    model = models.registry["sd"].model_dump_json()
    said = starter.said(_FRESH, model, plain.canonical(), str(torch.get_num_threads()), folder=folder)
    fresh = said.split()[-2:]
    happened = {True: 0, False: 0}

    @settings(
        max_examples=request.config.getoption("--sequences"),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @example([Asked("spoilt-half", file=("strange", "unet/config.json"))])
    # The text encoder has it, the UNet some of it.
    @example([Asked("sd", loras=("good",), interrupted=("loras", 8000))])
    @given(st.lists(ASKED, min_size=1, max_size=4))
    def after(sequence: list[Asked]) -> None:
        torch.set_default_dtype(torch.float32)
        cache = ModelCache({"diffusers": worker.backend}, capacity=0)
        for asked in sequence:
            happened[worker.attempt(cache, asked)] += 1
        assert torch.get_default_dtype() is torch.float32, sequence
        loaded = cache.get(models.registry["sd"])
        drawn = [worker.picture(loaded, plain, by_slots=by_slots) for by_slots in (False, True)]
        assert [hashlib.sha256(picture).hexdigest() for picture in drawn] == fresh, sequence

    after()
    assert happened[False] > 0
