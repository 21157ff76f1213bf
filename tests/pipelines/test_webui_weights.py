"""Prompts in the web UI's language, on small pipelines of the real classes: what its weights do to embeddings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from storage.errors import RenderFailed
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from worker.rendering.backend import LoadedModel
from worker.rendering.webui_weights import Encoder, _weighted, weighted_embeddings

Loader = Callable[[str], LoadedModel]


def drawn(models: Models, loaded: Loader, alias: str, prompt: str, **fields: object) -> Any:
    return pixels(loaded(alias), models.specs(alias, 1, **{"prompt": prompt, **fields}))


@torch.inference_mode()
def embedded(loaded: Loader, alias: str, prompt: str, negative: str = "", clip_skip: int | None = None) -> Any:
    pipeline: Any = loaded(alias).pipeline  # type: ignore[attr-defined]
    return weighted_embeddings(pipeline, (prompt, negative), clip_skip=clip_skip, two_encoders=alias == "sdxl")


@pytest.mark.parametrize(("alias", "clip_skip"), [("sd", None), ("sd", 1), ("sdxl", None), ("sdxl", 1)])
@torch.inference_mode()
def test_a_prompt_without_weights_is_read_as_ever(
    loaded: Loader, alias: str, clip_skip: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: Any = loaded(alias).pipeline  # type: ignore[attr-defined]
    # What Diffusers skips layers by, and Transformers 5 no longer has.
    monkeypatch.setitem(vars(pipeline.text_encoder), "text_model", pipeline.text_encoder)
    found = embedded(loaded, alias, "a red star", "blue, grey", clip_skip)
    plain = pipeline.encode_prompt(
        prompt="a red star",
        negative_prompt="blue, grey",
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        clip_skip=clip_skip,
    )
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    expected = dict(zip(names, plain, strict=False))
    if clip_skip is None:  # Diffusers skips no layers for the negative prompt; the web UI and the farm do
        assert torch.allclose(found["negative_prompt_embeds"], expected["negative_prompt_embeds"], atol=1e-5)
    for name in expected.keys() - {"negative_prompt_embeds"}:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a (red:1.5) star", "a red star", False),
        ("a (red:0.5) star", "a (red:1.5) star", False),
        ("a [red] star", "a red star", False),
        ("a (red:1) star", "a red star", True),
        ("a (red:1) star", "a (red:1.0) star", True),
        ("((red))", "(red:1.21)", True),
        (r"a \(red\) star", "a red star", False),
        ("a red star BREAK a blue ground", "a red star a blue ground", False),
    ],
)
def test_weights_change_the_embeddings_as_they_are_written(
    loaded: Loader, alias: str, one: str, other: str, same: bool
) -> None:
    first, second = (embedded(loaded, alias, prompt)["prompt_embeds"] for prompt in (one, other))
    assert (first.shape == second.shape and torch.allclose(first, second, atol=1e-5)) == same


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_a_weighted_prompt_is_drawn(models: Models, loaded: Loader, alias: str) -> None:
    plain, weighted = (
        drawn(models, loaded, alias, prompt, prompt_weighting="webui") for prompt in ("a red star", "a (red:1.5) star")
    )
    assert largest_difference(plain, weighted) > 1


def test_a_weight_multiplies_the_embeddings_of_its_words_and_keeps_their_mean(loaded: Loader) -> None:
    pipeline: Any = loaded("sd").pipeline  # type: ignore[attr-defined]
    encoder = Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=None, device="cpu")
    [plain], [weighted] = encoder.chunks("red"), encoder.chunks("(red:1.5)")
    with torch.inference_mode():
        before, after = (encoder.encode(chunk, normed=True)[0] for chunk in (plain, weighted))
    expected = before.clone()
    expected[:, 1 : 1 + len(plain)] *= 1.5
    assert torch.allclose(after, expected, atol=1e-6)  # random weights have no mean to keep
    shifted = before + 0.3
    expected = shifted.clone()
    expected[:, 1 : 1 + len(plain)] *= 1.5
    expected *= shifted.mean() / expected.mean()
    weights = [1.0, *[1.5] * len(plain), *[1.0] * (76 - len(plain))]
    assert torch.allclose(_weighted(shifted, weights), expected, rtol=1e-4, atol=1e-6)


def test_words_beyond_the_first_chunk_are_read(loaded: Loader) -> None:
    long = "a very long story, " * 20
    first, second = (embedded(loaded, "sd", f"{long}{word}")["prompt_embeds"] for word in ("ends well", "goes ill"))
    assert first.shape == second.shape
    assert first.shape[1] % 77 == 0
    assert torch.equal(first[:, :77], second[:, :77])
    assert not torch.allclose(first, second)


def test_a_full_chunk_ends_at_its_last_comma(loaded: Loader) -> None:
    pipeline: Any = loaded("sd").pipeline  # type: ignore[attr-defined]
    encoder = Encoder(pipeline.tokenizer, pipeline.text_encoder, layer=None, device="cpu")
    comma = encoder._ids(",")[0]

    def lengths(prompt: str) -> list[int]:
        return [len(chunk) for chunk in encoder.chunks(prompt)]

    # A token per letter, and one for the end of each word.
    [many] = encoder.chunks("x" * 60)
    assert len(many) <= 75
    prompt = "x" * 60 + "," + "y" * 30
    first, second = encoder.chunks(prompt)
    assert first[-1].id == comma
    assert (len(first), len(first) + len(second)) == (len(many) + 1, sum(lengths(prompt)))
    far = encoder.chunks("x" * 40 + "," + "y" * 60)
    assert len(far[0]) == 75


def test_prompt_and_negative_prompt_are_equally_long(loaded: Loader) -> None:
    for alias, two in (("sd", False), ("sdxl", True)):
        pipeline: Any = loaded(alias).pipeline  # type: ignore[attr-defined]
        with torch.inference_mode():
            found = weighted_embeddings(pipeline, ("long, " * 60, "(blue)"), clip_skip=None, two_encoders=two)
        assert found["prompt_embeds"].shape == found["negative_prompt_embeds"].shape
        assert found["prompt_embeds"].shape[1] > 77
        assert ("pooled_prompt_embeds" in found) == two


def test_a_pipeline_that_cannot_weigh_says_so(models: Models, loaded: Loader) -> None:
    [spec] = models.specs("kandinsky", 1)
    with pytest.raises(RenderFailed, match="prompt_weighting: .* does not support it"):
        pixels(loaded("kandinsky"), [spec.model_copy(update={"prompt_weighting": "webui"})])
