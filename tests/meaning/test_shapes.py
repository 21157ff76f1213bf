"""The shipped model through the worker's own code: does a picture show what its prompt says?"""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image

import worker
from examples.shapes import measure
from examples.shapes.drawings import drawing, silhouettes
from examples.shapes.judge import colour_shares, judge, overlap, shape_mask
from examples.shapes.prompts import vocabulary
from storage.objects.folder import LocalObjects
from storage.objects.inputs import put_input
from storage.settings import Settings
from storage.spec.picture import Request
from storage.spec.registry import read_registry
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources, LoadedModel
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend

MODELS = Path(worker.__file__).parent / "models"
#: Share of pictures that show what was asked for, at least; a little below the model card, for 64 pictures are few.
LEAST = {"background": 0.95, "colour": 0.9, "shape": 0.85, "position": 0.85}
REGISTRY = read_registry(Settings(home=Path("nowhere")))


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> LocalObjects:
    return LocalObjects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def backend(objects: LocalObjects, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    resources = BackendResources(inputs=InputCache(objects), loras={}, home=tmp_path_factory.mktemp("home"))
    return open_backend("diffusers", Device("cpu", 0), resources)


@pytest.fixture(scope="session")
def model(backend: Backend) -> LoadedModel:
    """What a worker on a CPU loads for the model that a render without a model gets."""
    return backend.load(REGISTRY[REGISTRY.default])


@pytest.fixture(scope="session")
def pipeline() -> Any:
    """The model opened as anybody would."""
    pipeline = AutoPipelineForText2Image.from_pretrained(MODELS / "shapes", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(model: LoadedModel, prompts: Sequence[str], **fields: object) -> list[Image.Image]:
    """One picture a prompt, in batches; the n-th has seed n."""
    requests = (Request.parse({"prompt": prompt, **fields}) for prompt in prompts)
    specs = [REGISTRY.resolve(request, seed=seed) for seed, request in enumerate(requests)]
    return [
        picture for n in range(0, len(specs), 8) for picture in model.render(specs[n : n + 8], lambda: None).pictures
    ]


# -- prompts ---------------------------------------------------------------------------------------------------


#: What is asked for, each with its prompt.
ASKED = list(measure.wishes(64, seed=99))
#: Half as many as the registry says: enough for what is compared with pictures of as many steps.
FEW_STEPS = 10


def fulfilled(pictures: Sequence[Image.Image]) -> list[dict[str, bool]]:
    """What each picture shows of what was asked for."""
    return [measure.fulfilled(wish, judge(picture)) for (wish, _), picture in zip(ASKED, pictures, strict=False)]


@pytest.fixture(scope="module")
def met(model: LoadedModel) -> list[dict[str, bool]]:
    """What the model's pictures show, drawn as its entry in the registry says."""
    return fulfilled(draw(model, [prompt for _, prompt in ASKED]))


def test_pictures_show_what_their_prompts_say(met: list[dict[str, bool]]) -> None:
    assert len(met) == 64
    shares = {name: np.mean([good[name] for good in met if name in good]) for name in measure.TOGETHER}
    assert {name: share >= LEAST[name] for name, share in shares.items()} == dict.fromkeys(shares, True), shares


def test_the_same_words_in_another_order_ask_for_the_same(model: LoadedModel) -> None:
    ways = [
        "a large red star on a blue background, top left",
        "blue background, top left, large red star",
        "in the top left corner, a large red star with a blue background",
        "a photo of a large red star on a blue background, top left, 8k, xq7 zzyzx",
    ]
    seen = [judge(picture) for picture in draw(model, [way for way in ways for _ in range(4)])]
    right = [(v.shape, v.colour, v.background, v.position) == ("star", "red", "blue", "top left") for v in seen]
    assert sum(right) >= 14, seen


def test_guidance_guides(model: LoadedModel, met: list[dict[str, bool]]) -> None:
    assert REGISTRY[REGISTRY.default].guidance_scale == 5.0
    unguided = fulfilled(draw(model, [prompt for _, prompt in ASKED[:32]], guidance_scale=1.0))

    def adherence(some: Sequence[dict[str, bool]]) -> float:
        return float(np.mean([good[name] for good in some for name in measure.TOGETHER if name in good]))

    assert adherence(met[:32]) > adherence(unguided)


def test_a_negative_prompt_repels(model: LoadedModel) -> None:
    prompts = ["a large circle on a white background", "a large square on a white background"] * 16

    def reds(negative: str) -> int:
        pictures = draw(model, prompts, negative_prompt=negative, num_inference_steps=FEW_STEPS)
        return sum(judge(picture).colour == "red" for picture in pictures)

    without = reds("")
    assert without >= 3
    assert reds("red") * 3 < without


@pytest.mark.parametrize("size", [(96, 64), (64, 128), (72, 72), (128, 128)])
def test_other_sizes_are_drawn_too(model: LoadedModel, size: tuple[int, int]) -> None:
    width, height = size
    [picture] = draw(model, ["a large red star on a blue background"], width=width, height=height)
    assert picture.size == size
    shares = colour_shares(picture)
    assert shares.most_common(1)[0][0] == "blue"
    assert shares["red"] > 100


# -- weights of words ------------------------------------------------------------------------------------------


def test_a_weight_weighs(model: LoadedModel) -> None:
    def share_of_red(red: float, blue: float) -> float:
        prompts = [f"a large (red){red} and (blue){blue} square on a white background"] * 12
        pictures = draw(model, prompts, prompt_weighting="compel", num_inference_steps=FEW_STEPS)
        counts = [colour_shares(picture) for picture in pictures]
        reds, blues = (sum(count[name] for count in counts) for name in ("red", "blue"))
        return reds / (reds + blues)

    shares = [share_of_red(0.5, 1.5), share_of_red(1.0, 1.0), share_of_red(1.5, 0.5)]
    assert shares == sorted(shares)
    assert shares[2] - shares[0] > 0.3


# -- silhouettes -----------------------------------------------------------------------------------------------


def test_a_silhouette_is_followed_and_the_prompt_decides_the_colours(
    model: LoadedModel, backend: Backend, objects: LocalObjects
) -> None:
    rng = random.Random(7)
    drawings = [drawing(rng) for _ in range(24)]
    masks = silhouettes(drawings).numpy()
    requests = [
        Request.parse(
            {
                "model": "shapes-silhouette",
                "prompt": f"a {one.colour} shape on a {one.background} background",
                "control_images": [stored(objects, mask)],
            }
        )
        for one, mask in zip(drawings, masks, strict=True)
    ]
    specs = [REGISTRY.resolve(request, seed=seed) for seed, request in enumerate(requests)]
    controlled = backend.load(REGISTRY["shapes-silhouette"], shared=model)
    pictures = [
        picture for n in range(0, 24, 8) for picture in controlled.render(specs[n : n + 8], lambda: None).pictures
    ]

    overlaps = [overlap(shape_mask(picture), mask > 0.5) for picture, mask in zip(pictures, masks, strict=True)]
    assert np.mean(overlaps) >= 0.8
    right = [judge(picture).colour == one.colour for picture, one in zip(pictures, drawings, strict=True)]
    assert np.mean(right) >= 0.85


def stored(objects: LocalObjects, mask: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    file = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(file, "PNG")
    return put_input(objects, file.getvalue())


# -- files -----------------------------------------------------------------------------------------------------


def test_each_word_of_the_vocabulary_is_one_token(pipeline: Any) -> None:
    assert [word for word in vocabulary() if len(pipeline.tokenizer.tokenize(word)) != 1] == []
    assert pipeline.tokenizer.model_max_length == 77


@pytest.mark.parametrize(("folder", "most"), [("shapes", 8_000_000), ("shapes-silhouette", 4_000_000)])
def test_the_models_are_small_enough_for_a_repository(folder: str, most: int) -> None:
    files = [file for file in (MODELS / folder).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= most
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".svg"}
