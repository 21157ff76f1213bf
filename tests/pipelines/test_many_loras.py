"""LoRAs by the dozen: all of a folder are used, those used last are kept, and memory does not grow with them."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from storage.spec.models import Lora
from storage.spec.picture import Request
from storage.spec.registry import parse_registry
from tests.pipelines import kohya, random_weights
from tests.pipelines.conftest import Models
from tests.pipelines.kohya import Kind
from tests.pipelines.pixels import pixels
from tests.pipelines.slots import drawn, loop_of
from tests.pipelines.tried import Tried
from worker.rendering import lora_set, loras

pytestmark = pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts

FILES = 60
#: So many are kept in these tests.
KEPT = 8
_KIND = Kind(unet=("to_q", "conv1"), text=("q_proj",))


class Shelf:
    """A model whose registry has a folder of LoRAs."""

    def __init__(self, models: Models, folder: Path) -> None:
        source = random_weights.smallest(folder / "smallest")
        (folder / "loras").mkdir()
        pipeline = StableDiffusionPipeline.from_pretrained(source)
        for number in range(FILES):
            kohya.write(folder / "loras" / f"Style {number:02}.safetensors", pipeline, _KIND, seed=number)
        size = "width = 16\nheight = 16\nnum_inference_steps = 1"
        entry = f'[models.sd]\nkind = "diffusers"\nsource = "{source}"\n{size}\n'
        self.registry = parse_registry(f'{entry}[loras]\nfolder = "{folder}/loras"\n', where="here")
        self.model: Any = models.backend_with(self.registry.loras, folder).load(self.registry["sd"])
        self.loop = loop_of(self.model)

    @property
    def kept(self) -> list[str]:
        return list(self.model.adapters._shelf._kept)

    def use(self, *aliases: str) -> list[Any]:
        """Draw a picture with each of these, all in one call."""
        asked = [{"prompt": "a red star", "model": "sd", "loras": {alias: 0.7}} for alias in aliases]
        slots = [self.loop.admit(self.registry.resolve(Request.parse(one), seed=1)) for one in asked]
        return drawn(self.loop, slots)

    def held(self) -> int:
        """Bytes of all tensors of this process but prompts' embeddings, of which a fixed number is kept."""
        self.model._prompts.forget()
        return bytes_of_tensors()


def bytes_of_tensors() -> int:
    gc.collect()
    storages = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor) and one.device.type == "cpu":
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.fixture(scope="module")
def shelf(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(models, tmp_path_factory.mktemp("many"))


def in_calls(aliases: Sequence[str]) -> list[Sequence[str]]:
    return [aliases[start : start + 4] for start in range(0, len(aliases), 4)]


def test_all_files_of_a_folder_are_used_and_once_all_were_memory_stays_the_same(shelf: Shelf) -> None:
    aliases = list(shelf.registry.loras)
    assert aliases == [f"style-{number:02}" for number in range(FILES)]
    first = [picture for some in in_calls(aliases) for picture in shelf.use(*some)]
    assert [list(picture.recipe["loras"]) for picture in first] == [[alias] for alias in aliases]
    hashes = [picture.recipe["loras"][alias]["weights"] for alias, picture in zip(aliases, first, strict=True)]
    assert len(set(hashes)) == FILES
    assert shelf.kept == aliases
    before = shelf.held()
    again = [picture for some in in_calls(aliases) for picture in shelf.use(*some)]
    assert shelf.held() == before
    assert [picture.picture.tobytes() for picture in again] == [picture.picture.tobytes() for picture in first]


def test_what_was_not_used_for_the_longest_time_is_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_set, "_MOST", KEPT)
    aliases = list(shelf.registry.loras)
    sizes = set()
    for some in in_calls(aliases[:20]):
        shelf.use(*some)
    assert shelf.kept == aliases[12:20]
    for turn, some in enumerate(in_calls([*aliases, *aliases])):
        shelf.use(*some)
        assert len(shelf.kept) == KEPT
        if turn % 5 == 4:
            sizes.add(shelf.held())
    assert len(sizes) == 1
    assert shelf.kept == aliases[-KEPT:]
    # What is used again is not the next to go.
    shelf.use(aliases[-KEPT])
    shelf.use(aliases[0])
    assert shelf.kept == [*aliases[-KEPT + 2 :], aliases[-KEPT], aliases[0]]


def test_large_ones_are_bounded_by_their_bytes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases = list(shelf.registry.loras)
    shelf.use(*aliases[:4])
    one = shelf.model.adapters._shelf._kept[aliases[0]].bytes
    monkeypatch.setattr(lora_set, "_MOST_BYTES", 3 * one)
    for some in in_calls(aliases[4:20]):
        shelf.use(*some)
        assert len(shelf.kept) <= 3
    # A picture may have more than fit: they are kept while it is made, and then go.
    asked = {"prompt": "a red star", "model": "sd", "loras": dict.fromkeys(aliases[:5], 0.2)}
    [picture] = drawn(shelf.loop, [shelf.loop.admit(shelf.registry.resolve(Request.parse(asked), seed=1))])
    assert set(picture.recipe["loras"]) == set(aliases[:5])
    shelf.use(aliases[30])
    assert len(shelf.kept) <= 3


def test_pefts_adapters_beyond_the_eighth_are_taken_out_and_come_back_as_they_were(tmp_path: Path) -> None:
    tried = Tried("flux-dev", tmp_path / "flux")
    model: Any = tried.model
    assert isinstance(model.adapters, loras.PeftAdapters)
    part = model.pipeline.transformer
    layers = [name for name, one in part.named_modules() if name.endswith(".to_q")]
    known = {}
    for number in range(20):
        generator, tensors = torch.Generator().manual_seed(number), {}
        for name in layers:
            weight = part.get_submodule(name).weight
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(2, weight.shape[1], generator=generator)
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(weight.shape[0], 2, generator=generator)
        file = tmp_path / f"style-{number}.safetensors"
        safetensors.torch.save_file(tensors, file)
        known[file.stem] = Lora(alias=file.stem, source=str(file))
    model.adapters._known = known
    spec = tried.spec(num_inference_steps=1)
    plain = pixels(model, [spec])

    def use(alias: str) -> Any:
        return pixels(model, [spec.model_copy(update={"loras": {alias: 0.7}})])

    first = {alias: use(alias) for alias in known}
    assert list(model.adapters._loaded) == list(known)[-8:]
    tensors_before, names_before = held(model), sum(1 for _ in part.named_modules())
    again = {alias: use(alias) for alias in known}
    assert (held(model), sum(1 for _ in part.named_modules())) == (tensors_before, names_before)
    assert all((again[alias] == picture).all() for alias, picture in first.items())
    assert len({picture.tobytes() for picture in first.values()}) == len(known)
    assert (pixels(model, [spec]) == plain).all()
    # What is used again is not the next to go.
    use("style-12")
    use("style-0")
    assert "style-12" in model.adapters._loaded
    assert "style-13" not in model.adapters._loaded


def held(model: Any) -> int:
    """Bytes of all tensors of this process but prompts' embeddings."""
    model._prompts.forget()
    return bytes_of_tensors()
