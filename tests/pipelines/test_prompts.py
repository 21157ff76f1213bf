"""What weights of a prompt do to the embeddings, on pipelines with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from storage.errors import RenderFailed
from storage.spec.prompt_length import unread
from tests.pipelines.conftest import Models
from tests.unit.test_compel_prompts import TAKEN
from worker.rendering.backend import LoadedModel

Loader = Callable[[str], LoadedModel]


@pytest.fixture
def encoded(models: Models, loaded: Loader) -> Callable[..., dict[str, torch.Tensor]]:
    """The embeddings of a prompt, past the checks of the door."""

    def encode(alias: str, prompt: str, weighting: str | None = "compel") -> dict[str, torch.Tensor]:
        [spec] = models.specs(alias, 1)
        model: Any = loaded(alias)
        with torch.inference_mode():
            [found] = model._prompts.arguments(
                [spec.model_copy(update={"prompt": prompt, "prompt_weighting": weighting})]
            )
        return dict(found)

    return encode


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_weights_of_1_are_no_weights(encoded: Callable[..., dict[str, torch.Tensor]], alias: str) -> None:
    plain = encoded(alias, "a red star", None)
    for prompt in ("a (red)1.0 star", "a (red star)1", "a red star", "(a red star).attend(1)"):
        weighted = encoded(alias, prompt)
        for name in plain:
            if name != "at":
                assert torch.equal(plain[name], weighted[name]), (prompt, name)


def test_sdxls_pooled_embeddings_are_those_of_the_words(encoded: Callable[..., dict[str, torch.Tensor]]) -> None:
    def pooled(prompt: str, weighting: str | None = "compel") -> torch.Tensor:
        return encoded("sdxl", prompt, weighting)["pooled_prompt_embeds"]

    cat, dog = pooled("a cat", None), pooled("a dog", None)
    assert torch.equal(pooled("a (red)1.4 star++"), pooled("a red star", None))
    assert torch.allclose(pooled('("a cat", "a dog").blend(1, 3)'), cat / 4 + dog * 3 / 4, atol=1e-5)
    assert torch.allclose(pooled('("a cat", "a dog").blend(1, -1, no_normalize)'), cat - dog, atol=1e-5)
    assert torch.equal(pooled('("a cat", "a dog").and(1, 0.5)'), pooled("a cat a dog", None))


def test_the_parts_of_and_have_weights_on_sdxl_too(encoded: Callable[..., dict[str, torch.Tensor]]) -> None:
    both, half = (encoded("sdxl", f'("a cat", "a dog").and(1, {weight})')["prompt_embeds"] for weight in (1, 0.5))
    assert both.shape == half.shape == (1, 154, 64)
    assert torch.equal(both[:, :77], half[:, :77])
    assert not torch.equal(both[:, 77:], half[:, 77:])


def test_the_worker_refuses_them_too(encoded: Callable[..., dict[str, torch.Tensor]]) -> None:
    for prompt in ("a cat.swap(dog)", "withLora(x) a", '("a", "b").blend(1, -1)', 'a ("x", "y").blend(1, 1) b'):
        with pytest.raises(RenderFailed, match="prompt: "):
            encoded("sdxl", prompt)


def test_what_the_door_takes_can_be_encoded(encoded: Callable[..., dict[str, torch.Tensor]]) -> None:
    for prompt in filter(None, TAKEN):
        for name, value in encoded("sdxl", prompt).items():
            assert name == "at" or bool(value.isfinite().all()), prompt


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alias", ["sd", "sdxl", "kandinsky"])
def test_words_that_are_not_read_are_named_for_their_picture_alone(models: Models, loaded: Loader, alias: str) -> None:
    # A token is a byte there.
    short, long = models.specs(alias, 2, num_inference_steps=1)
    long = long.model_copy(update={"prompt": "x " * 75 + "the end"})
    model = loaded(alias)
    rendered = model.render([short, long], lambda: None)
    assert rendered.remarks[0] == ()
    [remark] = rendered.remarks[1]
    assert remark.startswith(
        f"prompt: the model {alias} reads 75 of its 81 tokens; ignored from character 151 on: 'the end'"
    )
    without = long.model_copy(update={"prompt": "x " * 75})
    assert model.render([without], lambda: None).remarks == [()]


def test_what_the_door_says_of_a_long_prompt_is_what_the_worker_says(models: Models, loaded: Loader) -> None:
    for alias in ("sd", "sdxl", "kandinsky"):
        [spec] = models.specs(alias, 1, num_inference_steps=1, prompt="Ünï – " * 20)
        said = tuple(end.words for end in unread(spec, models.registry[alias]))
        assert said == loaded(alias).render([spec], lambda: None).remarks[0] != ()
