"""Textual inversions: what the web UI and Diffusers write, in prompts and negatives, equal to Diffusers' call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from storage.errors import BadSettings, RenderFailed
from storage.objects.folder import LocalObjects
from storage.spec.picture import Request
from storage.spec.prompt_length import unread
from storage.spec.registry import Registry, parse_registry
from tests.pipelines import flow_architectures, random_weights, single_files
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources, LoadedModel
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend

WIDTH, SECOND = 32, 48


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    random_weights.stable_diffusion(folder / "sd")
    single_files.sdxl_of_two_widths(folder / "sdxl")
    random_weights.saved(lambda: flow_architectures.flux(guidance_embeds=True), folder / "flux")
    torch.manual_seed(5)
    save_file({"emb_params": torch.randn(3, WIDTH)}, folder / "webui.safetensors")
    save_file({"<cat>": torch.randn(WIDTH)}, folder / "diffusers.safetensors")
    save_file({"clip_l": torch.randn(2, WIDTH), "clip_g": torch.randn(2, SECOND)}, folder / "xl.safetensors")
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, folder / "none.safetensors")
    save_file({"emb_params": torch.ones(1, 1, 4)}, folder / "odd.safetensors")
    save_file({"clip_l": torch.ones(2, WIDTH), "clip_g": torch.ones(1, SECOND)}, folder / "uneven.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "webui.safetensors").read_bytes()[:-3])
    return folder


@pytest.fixture(scope="module")
def registry(shelf: Path) -> Registry:
    small = 'kind = "diffusers"\nwidth = 64\nheight = 64\nnum_inference_steps = 4\n'
    models = "".join(f'[models.{name}]\nsource = "{name}"\n{small}' for name in ("sd", "sdxl", "flux"))
    files = ("webui", "diffusers", "xl", "none", "odd", "uneven", "cut")
    words = "".join(f'[embeddings.{name}-style]\nsource = "{name}.safetensors"\n' for name in files)
    only = '[embeddings.reserved]\nsource = "webui.safetensors"\nmodels = ["sdxl"]\n'
    return parse_registry(models + words + only, where="here", folder=shelf)


@pytest.fixture(scope="module")
def backend(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    inputs = InputCache(LocalObjects(tmp_path_factory.mktemp("objects")))
    home = tmp_path_factory.mktemp("home")
    resources = BackendResources(inputs=inputs, loras={}, embeddings=registry.embeddings, home=home)
    return open_backend("diffusers", Device("cpu", 0), resources)


@pytest.fixture(scope="module")
def loaded(backend: Backend, registry: Registry) -> Callable[[str], LoadedModel]:
    opened: dict[str, LoadedModel] = {}

    def get(alias: str) -> LoadedModel:
        if alias not in opened:
            opened[alias] = backend.load(registry[alias])
        return opened[alias]

    return get


@pytest.fixture(scope="module")
def draw(loaded: Callable[[str], LoadedModel], registry: Registry) -> Callable[..., Any]:
    def one(alias: str, prompt: str, negative: str = "", **fields: Any) -> Any:
        asked = {"prompt": prompt, "negative_prompt": negative, "model": alias, **fields}
        return loaded(alias).render([registry.resolve(Request.parse(asked), seed=7)], lambda: None)

    return one


def pixels(result: Any) -> Any:
    return np.asarray(result.pictures[0]).astype(int)


def by_diffusers(pipeline: Any, prompt: str, negative: str) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt=prompt,
        negative_prompt=negative,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    return np.asarray(made.images[0]).astype(int)


@pytest.mark.parametrize("file", ["webui", "diffusers"])
def test_an_embedding_is_what_diffusers_makes_of_its_file(file: str, shelf: Path, draw: Callable[..., Any]) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(shelf / "sd", safety_checker=None)
    pipeline.load_textual_inversion(shelf / f"{file}.safetensors", token="newword")
    word = f"{file}-style"
    for prompt, negative in (("a star, {}", "dark"), ("a star", "dark {}"), ("{} a star", "{}")):
        ours = draw("sd", prompt.format(word), negative.format(word))
        theirs = by_diffusers(pipeline, prompt.format("newword"), negative.format("newword"))
        assert np.abs(pixels(ours) - theirs).max() <= 1
        assert ours.recipe["embeddings"].keys() == {word}
        assert ours.recipe["embeddings"][word]["source"] == f"{file}.safetensors"
        assert ours.remarks == [()]


def test_sdxls_two_encoders_each_get_their_own_vectors(shelf: Path, draw: Callable[..., Any]) -> None:
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(shelf / "sdxl")
    vectors = load_file(shelf / "xl.safetensors")
    for name, end in (("clip_l", ""), ("clip_g", "_2")):
        tokenizer, encoder = getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}")
        pipeline.load_textual_inversion(
            {"newword": vectors[name]}, token="newword", tokenizer=tokenizer, text_encoder=encoder
        )
    for prompt, negative in (("a star, {}", "dark"), ("a star", "dark {}")):
        ours = draw("sdxl", prompt.format("xl-style"), negative.format("xl-style"))
        theirs = by_diffusers(pipeline, prompt.format("newword"), negative.format("newword"))
        assert np.abs(pixels(ours) - theirs).max() <= 1


def test_other_prompts_are_the_same_to_the_last_bit_after_it_was_used(backend: Backend, registry: Registry) -> None:
    fresh: Any = backend.load(registry["sd"])
    prompts = ("a star", "a webui-styled star", "my-webui-style", "webui-style2")
    specs = [registry.resolve(Request(prompt=prompt, model="sd"), seed=7) for prompt in prompts]
    before = [fresh.render([spec], lambda: None) for spec in specs]
    used = registry.resolve(Request(prompt="webui-style", negative_prompt="diffusers-style", model="sd"), seed=7)
    assert "embeddings" in fresh.render([used], lambda: None).recipe
    fresh._prompts.forget()
    for spec, one in zip(specs, before, strict=True):
        after = fresh.render([spec], lambda: None)
        assert (pixels(one) == pixels(after)).all()
        assert one.recipe == after.recipe
        assert "embeddings" not in after.recipe


def test_it_can_be_weighted_and_is_found_in_whatever_case(draw: Callable[..., Any]) -> None:
    plain = pixels(draw("sd", "a star, webui-style"))
    assert (pixels(draw("sd", "a star, WebUI-Style")) == plain).all()
    for weighting, heavy in (("webui", "a star, (webui-style:1.4)"), ("compel", "a star, (webui-style)1.4")):
        one = draw("sd", heavy, prompt_weighting=weighting)
        assert one.recipe["embeddings"].keys() == {"webui-style"}
        light = pixels(draw("sd", "a star, webui-style", prompt_weighting=weighting))
        assert (pixels(one) != light).any()
        assert np.abs(light - plain).max() <= 1


def test_slots_know_it_as_batches_do(
    draw: Callable[..., Any], loaded: Callable[[str], LoadedModel], registry: Registry
) -> None:
    loop = loaded("sd").slots()
    assert loop is not None
    asked = {"prompt": "a star, webui-style", "negative_prompt": "diffusers-style", "model": "sd"}
    slot = loop.admit(registry.resolve(Request.parse(asked), seed=7))
    while slot.made < slot.calls:
        assert not loop.tick([slot])
    [made] = loop.develop([slot])
    assert not isinstance(made, RenderFailed)
    batch = draw("sd", "a star, webui-style", "diffusers-style")
    assert np.abs(np.asarray(made.picture).astype(int) - pixels(batch)).max() <= 1
    assert made.recipe["embeddings"] == batch.recipe["embeddings"]
    assert made.recipe["embeddings"].keys() == {"webui-style", "diffusers-style"}


def test_one_for_another_model_is_read_as_words_and_that_is_said(draw: Callable[..., Any]) -> None:
    [[said]] = draw("sdxl", "a star, webui-style").remarks
    assert said == (
        "prompt: the embedding webui-style is for text encoders of 32 numbers, and this model's have 32 and 48; "
        "it is read as words"
    )
    [[said]] = draw("sd", "a star", "xl-style").remarks
    assert said.startswith("negative_prompt: the embedding xl-style is for text encoders of 32 and 48 numbers")
    # Of certain models only: elsewhere it is a word like any other.
    assert draw("sd", "reserved").remarks == [()]
    [[said]] = draw("flux", "a star, webui-style").remarks
    assert said == "prompt: the embedding webui-style is read as words: FluxPipeline takes none"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("none-style", "it holds a, b, and no vectors of one token"),
        ("odd-style", r"it holds no vectors, but \(1, 1, 4\)"),
        ("uneven-style", "it holds more vectors for one text encoder than for the other"),
        ("cut-style", "not a safetensors file"),
    ],
)
def test_a_file_that_holds_none_fails_the_picture_with_the_reason(
    word: str, reason: str, draw: Callable[..., Any]
) -> None:
    with pytest.raises(RenderFailed, match=f"prompt: the embedding {word} .* cannot be loaded: {reason}"):
        draw("sd", f"a star, {word}")


def test_words_that_are_not_read_are_told_in_the_words_that_were_written(draw: Callable[..., Any]) -> None:
    prompt = "webui-style " + "x" * 70 + " and all that"
    [[said]] = draw("sd", prompt).remarks
    # A byte is a token of these tokenizers, and the embedding is three.
    assert "ignored from character 84 on: 'and all that'" in said


@pytest.mark.parametrize(
    ("alias", "prompt"),
    [
        ("sd", "webui-style " + "x" * 70 + " and all that"),
        # The room ends within its three vectors: all of the word is named.
        ("sd", "x" * 73 + " webui-style"),
        ("sd", "webui-style " * 26),
        ("sd", "x" * 65 + " diffusers-style, webui-style and the end"),
        ("sdxl", "xl-style " * 40),
        # Of another model's: words.
        ("sdxl", "webui-style " * 40),
    ],
)
def test_the_door_counts_vectors_as_the_worker_does(
    alias: str, prompt: str, draw: Callable[..., Any], registry: Registry
) -> None:
    [said] = draw(alias, prompt, num_inference_steps=1).remarks
    spec = registry.resolve(Request(prompt=prompt, model=alias), seed=7)
    [end] = unread(spec, registry[alias], registry.embeddings)
    assert end.words in said
    assert end.text.isascii()


def test_another_file_under_the_same_name_counts(shelf: Path, backend: Backend, registry: Registry) -> None:
    loaded = backend.load(registry["sd"])
    spec = registry.resolve(Request(prompt="a star, webui-style", model="sd"), seed=7)
    before = loaded.render([spec], lambda: None)
    kept = (shelf / "webui.safetensors").read_bytes()
    try:
        save_file({"emb_params": torch.ones(2, WIDTH)}, shelf / "webui.safetensors")
        after = loaded.render([spec], lambda: None)
    finally:
        (shelf / "webui.safetensors").write_bytes(kept)
    assert (pixels(before) != pixels(after)).any()
    assert before.recipe["embeddings"] != after.recipe["embeddings"]


def test_entries_are_checked_as_those_of_loras_are(shelf: Path) -> None:
    for text, words in (
        ('[embeddings.x]\nsource = "x.pt"', r"\[embeddings.x\] source: x.pt is pickled"),
        ('[embeddings.x]\nsource = "a/b"\nscale = 1', r"\[embeddings.x\] scale: unknown field"),
        ('[embeddings.x]\nsource = "a/b"\nmodels = ["no"]', r"\[embeddings.x\] models: 'no' is not one of"),
        ("embeddings = 4", r"expected tables \[embeddings.ALIAS\]"),
    ):
        with pytest.raises(BadSettings, match=words):
            parse_registry(f"builtin = true\n{text}", where="here", folder=shelf)


def test_an_embedding_stands_in_words_that_change_between_steps(draw: Callable[..., Any]) -> None:
    def drawn(prompt: str, negative: str) -> Any:
        return pixels(draw("sd", prompt, negative, prompt_weighting="webui", guidance_scale=30.0))

    plain = drawn("a (webui-style:1.2) star", "dark webui-style")
    changing = drawn("a [(webui-style:1.2):none:9] star", "[dark webui-style:none:9]")
    assert np.abs(plain - changing).max() <= 1
    assert np.abs(plain - drawn("a [(webui:1.2):none:9] star", "[dark webui:none:9]")).max() > 1
