"""Previews show how pictures stand: latents without noise, in colours, whatever sampler and family draws them."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    FluxPipeline,
    QwenImagePipeline,
)
from PIL import Image

from storage.errors import BadSettings, ModelUnavailable, RenderFault
from storage.objects.folder import LocalObjects
from storage.settings import Settings
from storage.spec.models import DiffusersModel, Weights
from storage.spec.picture import Request
from storage.spec.registry import parse_registry, read_registry
from storage.spec.sampler_names import PLAIN
from tests.pipelines.conftest import Models
from tests.pipelines.slots import loop_of
from tests.pipelines.tried import Tried
from worker.devices import Device
from worker.rendering.backend import BackendResources, LoadedModel, Look, NoPreview
from worker.rendering.denoised import StepMade, denoised, recorded
from worker.rendering.input_cache import InputCache
from worker.rendering.latent_rgb import FILE_NAME, LatentRgb, known_map, own_map, written
from worker.rendering.open_backend import open_backend
from worker.rendering.previews import SIDE, LinearMap, small_pictures, unpacked
from worker.rendering.samplers import make_scheduler

Loader = Callable[[str], LoadedModel]

# -- without noise ---------------------------------------------------------------------------------------------

#: As the latents of pictures are: of mean 0 and deviation 1.
TARGET = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def predicted(scheduler: Any, given: torch.Tensor, timestep: Any, kind: str) -> torch.Tensor:
    """What a model says that knows the picture, of what the sampler gives it at a timestep."""
    alphas = scheduler.alphas_cumprod.double()
    at = min(float(timestep), len(alphas) - 1.0)
    # Samplers' timesteps may lie between two of training.
    low = int(at)
    log = ((1 - alphas) / alphas).log()
    level = log[low] + (at - low) * (log[min(low + 1, len(log) - 1)] - log[low])
    alpha = (1 / (1 + level.exp())).sqrt().float()
    sigma = (1 - alpha**2).sqrt()
    noise = (given - alpha * TARGET) / sigma
    said: torch.Tensor = noise if kind == "epsilon" else alpha * noise - sigma * TARGET
    return said


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", [*PLAIN, "euler karras", "heun karras"])
def test_at_every_step_of_every_sampler_a_model_that_knows_the_picture_shows_it(sampler: str, kind: str) -> None:
    own = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind)
    scheduler = make_scheduler(sampler, own)
    scheduler.set_timesteps(8)
    latents = torch.randn(TARGET.shape, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    seen: list[StepMade] = []
    recorded(scheduler, seen.append)
    recorded(scheduler, seen.append)
    for number, timestep in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(latents, timestep)
        output = predicted(scheduler, given, timestep, kind)
        drawn = {"generator": torch.Generator().manual_seed(number)} if "generator" in _step_takes(scheduler) else {}
        latents = scheduler.step(output, timestep, latents, **drawn, return_dict=False)[0]
        assert len(seen) == number + 1, "each step is told once"
        assert (denoised(scheduler, seen[-1]) - TARGET).abs().max() < 0.1, (sampler, number)


def _step_takes(scheduler: Any) -> Sequence[str]:
    return [*inspect.signature(scheduler.step).parameters]


def test_flow_matching_shows_the_picture_too() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    latents = torch.randn(TARGET.shape, generator=torch.Generator().manual_seed(1))
    noise = latents
    seen: list[StepMade] = []
    recorded(scheduler, seen.append)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(noise - TARGET, timestep, latents, return_dict=False)[0]
        torch.testing.assert_close(denoised(scheduler, seen[-1]), TARGET, atol=1e-4, rtol=0)


def test_of_a_scheduler_whose_latents_are_not_known_there_is_no_preview() -> None:
    unknown: Any = SimpleNamespace(config={"prediction_type": "epsilon"}, step_index=1)
    step = StepMade(predicted=TARGET, latents=TARGET, timestep=1, index=0)
    with pytest.raises(NoPreview, match="how noisy the latents of a SimpleNamespace are"):
        denoised(unknown, step)


# -- colours ---------------------------------------------------------------------------------------------------


def autoencoder(kind: str, **config: Any) -> Any:
    """What stands for an autoencoder: its class's name and its configuration."""
    return type(kind, (), {"config": config})()


WIDTHS = [128, 256, 512, 512]


@pytest.mark.parametrize(
    ("vae", "channels"),
    [
        (autoencoder("AutoencoderKL", latent_channels=4, scaling_factor=0.18215, block_out_channels=WIDTHS), 4),
        (autoencoder("AutoencoderKL", latent_channels=4, scaling_factor=0.13025, block_out_channels=tuple(WIDTHS)), 4),
        (autoencoder("AutoencoderKL", latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609), 16),
        (autoencoder("AutoencoderKL", latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159), 16),
        (autoencoder("AutoencoderKLFlux2", latent_channels=32, block_out_channels=WIDTHS), 32),
        (autoencoder("AutoencoderKLQwenImage", z_dim=16, base_dim=96, latents_mean=[-0.7571, -0.7089]), 16),
    ],
)
def test_latents_are_known_by_the_autoencoder_that_they_are_for(vae: Any, channels: int) -> None:
    found = known_map(vae)
    assert found is not None
    assert found.channels == channels
    # Whoever trains one anew makes other latents, whatever it is called.
    for other in (
        autoencoder(type(vae).__name__, **vae.config | {"latents_mean": [0.1, 0.2]}),
        autoencoder("AutoencoderKLOther", **vae.config),
        autoencoder(type(vae).__name__, **dict(list(vae.config.items())[1:])),
    ):
        assert known_map(other) is None


def test_a_small_autoencoder_with_the_usual_scaling_is_none_of_those_known(loaded: Loader) -> None:
    assert known_map(loaded("sd").pipeline.vae) is None  # type: ignore[attr-defined]


def test_a_folder_brings_a_map_of_its_own_or_a_word_on_what_is_wrong_with_it(tmp_path: Path) -> None:
    assert own_map(None) is None
    assert own_map(tmp_path) is None
    made = LatentRgb(factors=((1.0, 0.5, 0.25),), bias=(0.0, 0.5, 1.0))
    (tmp_path / FILE_NAME).write_text(written(made, "a test"))
    assert own_map(tmp_path) == made
    for wrong in ("{", "[]", '{"factors": []}', '{"factors": [[1, 2]]}', '{"factors": [[1, 2, NaN]]}'):
        (tmp_path / FILE_NAME).write_text(wrong)
        with pytest.raises(ValueError, match=f"its {FILE_NAME} cannot be read"):
            own_map(tmp_path)


def test_a_large_preview_is_made_small_and_what_is_no_number_is_grey() -> None:
    latents = torch.full((1, 1, 300, 600), 1.0)
    latents[..., :300] = float("nan")
    [picture], seconds = small_pictures(
        LinearMap(LatentRgb(factors=((1.0, -1.0, 0.0),), bias=(0.0, 0.0, 0.0))), latents
    ).fetch()
    assert picture.size == (SIDE, SIDE // 2)
    assert picture.getpixel((250, 60)) == (255, 0, 128)
    assert picture.getpixel((5, 60)) == (128, 128, 128)
    assert seconds == 0


# -- pipelines -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder like TAESD with random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=4,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def previewed(models: Models, tiny: Path) -> LoadedModel:
    entry = models.registry["sd"].model_copy(update={"preview": Weights(source=str(tiny))})
    return models.backend.load(entry)


def looked(model: LoadedModel, specs: Sequence[Any]) -> list[list[Image.Image]]:
    """The previews of a batch after each of its steps."""
    found: list[list[Image.Image]] = []

    def looks(positions: Sequence[int], look: Look) -> None:
        assert list(positions) == list(range(len(specs)))
        found.append([*look(range(len(positions))).fetch()[0]])

    model.render(specs, lambda: None, looks=looks)
    return found


def test_a_decoder_that_an_entry_names_shows_pictures_by_slots_and_by_batches_alike(
    models: Models, previewed: LoadedModel
) -> None:
    specs = models.specs("sd", 2, width=96, height=64)
    loop = loop_of(previewed)
    slots = [loop.admit(spec) for spec in specs]
    by_slots = []
    for _ in range(3):
        loop.tick(slots)
        by_slots.append([*loop.preview(slots).fetch()[0]])
    by_batch = looked(previewed, specs)
    assert len(by_slots) == len(by_batch) == 3
    for ours, theirs in zip(by_slots, by_batch, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.size == other.size == (96, 64)
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1
    assert by_batch[0][0].tobytes() != by_batch[0][1].tobytes() != by_batch[2][1].tobytes()


def test_one_of_several_is_looked_at_and_none_is_changed(models: Models, previewed: LoadedModel) -> None:
    specs = models.specs("sd", 3)
    loop = loop_of(previewed)
    watched, alone = ([loop.admit(spec) for spec in specs] for _ in range(2))
    for _ in range(3):
        loop.tick(watched)
        [picture] = loop.preview(watched[1:2]).fetch()[0]
        loop.tick(alone)
    assert picture.tobytes() != loop.preview(watched[:1]).fetch()[0][0].tobytes()
    for one, other in zip(loop.develop(watched), loop.develop(alone), strict=True):
        assert one.picture.tobytes() == other.picture.tobytes()  # type: ignore[union-attr]


def test_a_picture_whose_words_change_is_seen_in_its_batch_too(models: Models, previewed: LoadedModel) -> None:
    [first] = models.specs("sd", 1)
    [second] = models.specs("sd", 1, prompt="a [red:blue:0.5] star", prompt_weighting="webui")
    seen: list[tuple[int, ...]] = []

    def looks(positions: Sequence[int], look: Look) -> None:
        look([0]).fetch()
        seen.append(tuple(positions))

    previewed.render([second, first], lambda: None, looks=looks)
    assert seen == [(1,)] * 3 + [(0,)] * 3


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("sd", "not known how latents of the model sd look"),
        ("sd-checked", "pictures of sd-checked are shown once its safety checker has passed them"),
    ],
)
def test_a_model_without_previews_says_why(models: Models, loaded: Loader, alias: str, said: str) -> None:
    loop = loop_of(loaded(alias))
    slot = loop.admit(models.specs(alias)[0])
    loop.tick([slot])
    with pytest.raises(NoPreview, match=said):
        loop.preview([slot])


def test_a_look_that_fails_ends_no_batch(
    models: Models, previewed: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any) -> None:
        raise ValueError("nobody expected this")

    def looks(_: Sequence[int], look: Look) -> None:
        with pytest.raises(RenderFault, match="nobody expected this"):
            look([0])

    monkeypatch.setattr(previewed, "_previewer", fails)
    monkeypatch.setattr(fails, "channels", 4, raising=False)
    assert len(previewed.render(models.specs("sd"), lambda: None, looks=looks).pictures) == 1


def test_a_decoder_of_other_latents_is_refused_when_the_model_is_loaded(models: Models, tmp_path: Path) -> None:
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=16,
    ).save_pretrained(tmp_path)
    entry = models.registry["sd"].model_copy(update={"preview": Weights(source=str(tmp_path))})
    with pytest.raises(ModelUnavailable, match="decodes latents of 16 channels, and those of sd have 4"):
        models.backend.load(entry)


def test_an_entry_names_a_decoder_beside_its_registry_and_no_single_file() -> None:
    text = '[models.m]\nkind = "diffusers"\nsource = "somewhere/m"\npreview = {}\n'
    model = parse_registry(text.format('"./tiny"'), where="here", folder=Path("/registry"))["m"]
    assert isinstance(model, DiffusersModel)
    assert model.preview is not None
    assert Path(model.preview.source) == Path("/registry/tiny")
    assert model.preview in model.parts
    with pytest.raises(BadSettings, match="preview: a single file"):
        parse_registry(text.format('"taesd.safetensors"'), where="here")
    with pytest.raises(BadSettings, match="preview: not together with safety_checker"):
        parse_registry(text.format('"./tiny"\nsafety_checker = true'), where="here")


def test_the_shipped_model_is_seen_in_the_colours_of_its_picture(tmp_path: Path) -> None:
    registry = read_registry(Settings(home=tmp_path))
    resources = BackendResources(inputs=InputCache(LocalObjects(tmp_path)), loras={}, home=tmp_path)
    model = open_backend("diffusers", Device("cpu", 0), resources).load(registry["shapes"])
    prompt = "a large red circle on a blue background, center"
    [spec] = [registry.resolve(Request.parse({"prompt": prompt, "model": "shapes"}), seed=3)]
    loop = loop_of(model)
    slot = loop.admit(spec)
    while slot.made < slot.calls * 3 / 4:
        loop.tick([slot])
    [seen] = loop.preview([slot]).fetch()[0]
    assert seen.size == (16, 16)
    red, _, blue = np.asarray(seen).astype(int)[7:9, 7:9].mean(axis=(0, 1))
    assert red > blue + 100
    red, _, blue = np.asarray(seen).astype(int)[:2].mean(axis=(0, 1))
    assert blue > red + 100


# -- other families --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", [FluxPipeline, QwenImagePipeline, Flux2KleinPipeline])
def test_tokens_are_put_where_they_were(pipeline: Any) -> None:
    cells = torch.randn(2, 16, 6, 10)
    if pipeline is Flux2KleinPipeline:
        packed = pipeline._pack_latents(pipeline._patchify_latents(cells))
    else:
        packed = pipeline._pack_latents(cells, 2, 16, 6, 10)
    of: Any = pipeline.__new__(pipeline)
    of.vae_scale_factor = 8
    assert torch.equal(unpacked(of, packed, (48, 80), 16), cells)
    with pytest.raises(NoPreview, match="how a .*Pipeline arranges"):
        unpacked(of, packed[:, :-1], (48, 80), 16)
    with pytest.raises(NoPreview, match="how a .*Pipeline arranges"):
        unpacked(of, packed, (48, 80), 4)


@pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts
@pytest.mark.parametrize("name", ["flux-schnell", "qwen-image"])
def test_after_the_last_step_the_latents_themselves_are_seen(name: str, tmp_path: Path) -> None:
    tried = Tried(name, tmp_path)
    vae = tried.folder / "vae" / "config.json"
    config = json.loads(vae.read_text())
    channels = config.get("z_dim") or config["latent_channels"]
    factors = torch.randn(channels, 3, generator=torch.Generator().manual_seed(2)).tolist()
    made = LatentRgb.model_validate({"factors": factors})
    (tried.folder / FILE_NAME).write_text(written(made, "a test"))
    pipeline, decoded = tried.model.pipeline, []
    decode = pipeline.vae.decode

    def noting(latents: torch.Tensor, **options: Any) -> Any:
        decoded.append(latents.clone())
        return decode(latents, **options)

    pipeline.vae.decode = noting
    seen = looked(tried.model, [tried.spec(width=96, height=64)])
    [last] = decoded
    if name == "qwen-image":
        mean, deviation = (torch.tensor(config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        last = ((last - mean) / deviation)[:, :, 0]
    else:
        last = (last - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor
    [wanted] = small_pictures(LinearMap(made), last).fetch()[0]
    assert len(seen) == 3
    assert seen[-1][0].size == wanted.size
    assert np.abs(np.asarray(seen[-1][0]).astype(int) - np.asarray(wanted).astype(int)).max() <= 1
    assert seen[0][0].tobytes() != seen[-1][0].tobytes()
