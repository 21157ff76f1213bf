"""Checkpoints, ControlNets and VAEs in single files draw what the same weights draw from a folder."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from click.testing import CliRunner
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from storage.errors import BadSpecification, ModelUnavailable
from storage.objects.folder import LocalObjects
from storage.spec.clip_tokens import clip_tokens_of
from storage.spec.loaded_size import count_parameters
from storage.spec.model_files import CONFIGURATIONS, own_configuration
from storage.spec.models import DiffusersModel
from storage.spec.picture import Request
from storage.spec.registry import Registry, parse_registry
from tests.pipelines import original_layout, random_weights, single_files
from tests.pipelines.conftest import Models
from worker.devices import Device
from worker.rendering import to_safetensors
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend
from worker.rendering.single_files import tokenizer_in

_SMALL = 'kind = "diffusers"\nwidth = 64\nheight = 64\nnum_inference_steps = 2\n'


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pipelines, a ControlNet and another VAE, each as a folder and as a file."""
    folder = tmp_path_factory.mktemp("shelf")
    random_weights.stable_diffusion(folder / "sd")
    single_files.sdxl_of_two_widths(folder / "sdxl")
    random_weights.controlnet(folder / "net", folder / "sd")
    random_weights.saved(random_weights._vae, folder / "other" / "vae", seed=9)
    for name in ("sd", "sdxl"):
        single_files.checkpoint(folder / name, folder / f"{name}.safetensors")
    for name, original in (("net", True), ("net-diffusers", False)):
        single_files.controlnet(folder / "net", folder / f"{name}.safetensors", original=original)
    single_files.vae(folder / "other", folder / "vae.safetensors", original=True)
    single_files.vae(folder / "other", folder / "vae-prefixed.safetensors", original=True, prefix="first_stage_model.")
    single_files.vae(folder / "other", folder / "vae-diffusers.safetensors", original=False)
    return folder


def registered(folder: Path, /, **entries: str) -> Registry:
    text = "\n".join(f"[models.{alias}]\n{_SMALL}{keys}" for alias, keys in entries.items())
    return parse_registry(text, where="here", folder=folder)


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Load a model of a registry and render one picture of it: its pixels and its recipe."""
    objects = LocalObjects(tmp_path_factory.mktemp("objects"))
    resources = BackendResources(inputs=InputCache(objects), loras={}, home=tmp_path_factory.mktemp("home"))
    backend = open_backend("diffusers", Device("cpu", 0), resources)

    def one(registry: Registry, alias: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
        model = registry[alias]
        if getattr(model, "controlnets", ()):
            image = Models(registry=registry, objects=objects, backend=backend).image(1)
            fields["control_images"] = [image]
        spec = registry.resolve(Request.parse({"prompt": "a red star", "model": alias, **fields}), seed=3)
        result = backend.load(model).render([spec], lambda: None)
        return np.asarray(result.pictures[0]).astype(int), dict(result.recipe)

    one.backend = backend  # type: ignore[attr-defined]
    return one


def alike(one: Any, other: Any) -> bool:
    """Whether two pictures are the same but for rounding: where weights are in memory, their last bits depend on it."""
    return bool(np.abs(one - other).max() <= 1)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_checkpoint_in_one_file_is_the_folder_it_was_made_of(
    name: str, shelf: Path, draw: Callable[..., Any]
) -> None:
    registry = registered(
        shelf,
        folder=f'source = "{name}"',
        file=f'source = "{name}.safetensors"\nconfig = "{name}"',
    )
    pixels, recipe = draw(registry, "folder")
    same, same_recipe = draw(registry, "file")
    assert alike(same, pixels)
    assert same_recipe["weights"] == recipe["weights"]
    assert same_recipe["sha256"] == hashlib.sha256((shelf / f"{name}.safetensors").read_bytes()).hexdigest()
    assert "sha256" not in recipe
    assert (same_recipe["source"], same_recipe["pipeline"]) == (f"{name}.safetensors", recipe["pipeline"])
    # The size is told from the header: the same number of numbers, whatever the file's names are.
    backend = draw.backend  # type: ignore[attr-defined]
    of_folder, of_file = (backend.needed_memory(registry[alias]) for alias in ("folder", "file"))
    assert 0.95 < of_file / of_folder < 1.05


def _trainers_own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what trainers of latent diffusion leave beside the weights: averages, schedules, counted places."""
    unet = {name: tensor for name, tensor in tensors.items() if name.startswith("model.diffusion_model.")}
    averages = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor + 1 for name, tensor in unet.items()
    }
    places = torch.arange(77).reshape(1, -1)
    return {
        **averages,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        **{name: torch.ones(1000) for name in ("betas", "alphas_cumprod", "sqrt_alphas_cumprod", "logvar")},
        "cond_stage_model.transformer.text_model.embeddings.position_ids": places,
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_checkpoint_of_any_precision_and_with_what_trainers_leave_is_drawn(
    dtype: torch.dtype, shelf: Path, draw: Callable[..., Any]
) -> None:
    tensors = safetensors.torch.load_file(shelf / "sd.safetensors")
    small = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    safetensors.torch.save_file({**small, **_trainers_own(tensors)}, shelf / "small.safetensors")
    same = {name: tensor.float() for name, tensor in small.items()}
    safetensors.torch.save_file(same, shelf / "same.safetensors")
    registry = registered(
        shelf,
        small='source = "small.safetensors"\nconfig = "sd"',
        same='source = "same.safetensors"\nconfig = "sd"',
    )
    assert alike(draw(registry, "small")[0], draw(registry, "same")[0])


def test_what_a_file_says_of_itself_is_what_its_sampler_computes_with(shelf: Path, draw: Callable[..., Any]) -> None:
    single_files.checkpoint(shelf / "sdxl", shelf / "v.safetensors", "v_pred", "ztsnr")
    single_files.checkpoint(shelf / "sd", shelf / "spec.safetensors", **{"modelspec.prediction_type": "v"})
    single_files.checkpoint(shelf / "sd", shelf / "kohya.safetensors", ss_v_parameterization="True")
    registry = registered(
        shelf,
        v='source = "v.safetensors"\nconfig = "sdxl"',
        spec='source = "spec.safetensors"\nconfig = "sd"',
        kohya='source = "kohya.safetensors"\nconfig = "sd"',
        told='source = "spec.safetensors"\nconfig = "sd"\nprediction_type = "epsilon"',
        zero='source = "sd.safetensors"\nconfig = "sd"\nprediction_type = "v_prediction"\nzero_snr = true',
        never='source = "sd.safetensors"\nconfig = "sd"\nzero_snr = true',
        plain='source = "sd.safetensors"\nconfig = "sd"',
    )
    expected = {
        "v": ("v_prediction", True, "trailing"),
        "spec": ("v_prediction", False, None),
        "kohya": ("v_prediction", False, None),
        "told": ("epsilon", False, None),
        "zero": ("v_prediction", True, "trailing"),
        "plain": (None, False, None),
    }
    for alias, (prediction, zero_snr, spacing) in expected.items():
        model = registry[alias]
        assert isinstance(model, DiffusersModel)
        own = own_configuration(model)
        assert own is not None
        told = own.scheduler_settings
        assert told.get("prediction_type", "epsilon") == (prediction or "epsilon")
        assert bool(told.get("rescale_betas_zero_snr")) == zero_snr
        for sampler in (None, "euler"):
            _, recipe = draw(registry, alias, sampler=sampler)
            used = recipe["scheduler_config"]
            assert used["prediction_type"] == (prediction or "epsilon")
            assert bool(used.get("rescale_betas_zero_snr")) == zero_snr
            if spacing:
                assert used["timestep_spacing"] == spacing
    with pytest.raises(BadSpecification, match="zero_snr is for models that predict v"):
        draw(registry, "never")


@pytest.mark.parametrize("file", ["net.safetensors", "net-diffusers.safetensors"])
def test_a_controlnet_in_one_file_is_its_folder(file: str, shelf: Path, draw: Callable[..., Any]) -> None:
    registry = registered(
        shelf,
        folder='source = "sd"\ncontrolnets = ["net"]',
        file=f'source = "sd.safetensors"\nconfig = "sd"\ncontrolnets = [{{ source = "{file}", config = "net" }}]',
    )
    (of_file, recipe), (of_folder, folder_recipe) = draw(registry, "file"), draw(registry, "folder")
    assert alike(of_file, of_folder)
    # As the web UI's extension calls them: it looks at 64 kB of a file from its first MiB on.
    part = hashlib.sha256((shelf / file).read_bytes()[1 << 20 : (1 << 20) + (1 << 16)]).hexdigest()[:8]
    assert (recipe["controlnets"], folder_recipe["controlnets"]) == (
        [f"{file.removesuffix('.safetensors')} [{part}]"],
        ["net"],
    )


@pytest.mark.parametrize(
    "vae", ["vae.safetensors", "vae-prefixed.safetensors", "vae-diffusers.safetensors", "other/vae"]
)
def test_another_vae_draws_other_pictures_from_a_file_as_from_a_folder(
    vae: str, shelf: Path, draw: Callable[..., Any]
) -> None:
    registry = registered(
        shelf,
        own='source = "sd"',
        folder=f'source = "sd"\nvae = "{vae}"',
        file=f'source = "sd.safetensors"\nconfig = "sd"\nvae = "{vae}"',
    )
    own, (folder, recipe), file = draw(registry, "own")[0], draw(registry, "folder"), draw(registry, "file")[0]
    assert alike(folder, file)
    assert not alike(folder, own)
    assert recipe["vae_source"] == vae.rpartition("/")[2]
    # Galleries know a file by its hash; a folder has none.
    hashes = {} if vae == "other/vae" else {"vae_sha256": hashlib.sha256((shelf / vae).read_bytes()).hexdigest()}
    assert {name: recipe[name] for name in ("sha256", "vae_sha256") if name in recipe} == hashes


def test_models_that_differ_in_their_vae_alone_do_not_share_weights(shelf: Path) -> None:
    registry = registered(shelf, own='source = "sd"', other='source = "sd"\nvae = "vae.safetensors"')
    assert registry["own"].base != registry["other"].base


@pytest.mark.parametrize(
    ("family", "parameters"),
    # As counted by those who describe them: the UNets' 860 M, 866 M and 2.6 G (SDXL's paper, table 1), CLIP ViT-L's
    # 123 M, OpenCLIP ViT-H's 340 M (23 layers of 24) and ViT-bigG's 695 M, and the VAE's 84 M.
    [
        ("sd1", {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}),
        ("sd2", {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}),
        (
            "sdxl",
            {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863},
        ),
    ],
)
def test_the_configurations_that_come_with_the_farm_are_the_families(family: str, parameters: dict[str, int]) -> None:
    folder = CONFIGURATIONS / family
    index = json.loads((folder / "model_index.json").read_text())
    for part, count in parameters.items():
        library, name = index[part]
        kind = getattr(diffusers if library == "diffusers" else transformers, name)
        with torch.device("meta"):
            if library == "diffusers":
                module = kind.from_config(kind.load_config(folder / part))
            else:
                module = kind(kind.config_class.from_pretrained(folder / part))
        assert sum(weight.numel() for weight in module.parameters()) == count
        if part == "unet":
            original = original_layout.unet(module)
            assert _names_of(family) <= original.keys()
            back = convert_ldm_unet_checkpoint(
                {f"model.diffusion_model.{key}": value for key, value in original.items()}, module.config
            )
            assert back.keys() == module.state_dict().keys()
        if part == "vae":
            assert convert_ldm_vae_checkpoint(original_layout.vae(module), module.config).keys() == (
                module.state_dict().keys()
            )


def _names_of(family: str) -> set[str]:
    """Names by which other programs know a family's checkpoints."""
    return {
        "sd1": {"output_blocks.11.0.skip_connection.weight", "output_blocks.11.1.transformer_blocks.0.norm1.bias"},
        "sd2": {"input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"},
        "sdxl": {"input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight", "label_emb.0.2.bias"},
    }[family]


def test_the_vocabulary_that_comes_with_the_farm_is_clips(shelf: Path) -> None:
    tokenizer = tokenizer_in(CONFIGURATIONS / "sd1" / "tokenizer")
    assert len(tokenizer) == 49408
    # CLIP's own example, of its README: "a diagram", "a dog".
    assert tokenizer("a diagram").input_ids == [49406, 320, 22697, 49407]
    assert tokenizer("a dog").input_ids == [49406, 320, 1929, 49407]
    second = tokenizer_in(CONFIGURATIONS / "sdxl" / "tokenizer_2")
    assert second("a dog", padding="max_length").input_ids[4:] == [0] * 73
    [counted] = clip_tokens_of(DiffusersModel(alias="m", kind="diffusers", source=str(shelf / "sd.safetensors")))
    text = "an astronaut riding a horse, highly detailed, 8k, (masterpiece)"
    assert counted.count(text)[0] == len(tokenizer(text, add_special_tokens=False).input_ids)
    assert counted.room == 75


def test_a_file_that_does_not_fit_its_configuration_is_refused_with_what_is_missing(
    shelf: Path, draw: Callable[..., Any]
) -> None:
    backend = draw.backend  # type: ignore[attr-defined]
    tensors = original_layout.checkpoint(diffusers.StableDiffusionPipeline.from_pretrained(shelf / "sd"))
    without = {name: value for name, value in tensors.items() if not name.endswith("out.2.bias")}
    original_layout.saved(without, shelf / "without.safetensors")
    for name, end in (("text", "final_layer_norm.bias"), ("vae-less", "decoder.conv_out.bias")):
        kept = {key: value for key, value in tensors.items() if not key.endswith(end)}
        original_layout.saved(kept, shelf / f"{name}.safetensors")
    beside = tensors | {"model.diffusion_model.more.weight": torch.zeros(3)}
    original_layout.saved(beside, shelf / "beside.safetensors")
    registry = registered(
        shelf,
        without='source = "without.safetensors"\nconfig = "sd"',
        beside='source = "beside.safetensors"\nconfig = "sd"',
        text='source = "text.safetensors"\nconfig = "sd"',
        vae='source = "vae-less.safetensors"\nconfig = "sd"',
        unlike='source = "sd.safetensors"',
    )
    for alias, words in (
        ("without", "its UNet has .* numbers, as its configuration says .sd. .* or damaged"),
        ("beside", "its UNet has .* numbers"),
        ("text", "it lacks 1 tensors of its text_encoder, such as final_layer_norm.bias"),
        ("vae", "it lacks tensors that its configuration has"),
    ):
        with pytest.raises(ModelUnavailable, match=words):
            backend.load(registry[alias])
    # Of a family by its names, but not by its sizes.
    with pytest.raises(ModelUnavailable, match="unlike .sd.safetensors. cannot be loaded: "):
        backend.load(registry["unlike"])


def test_sizes_are_counted_without_training_averages(shelf: Path) -> None:
    registry = registered(shelf, m='source = "sd.safetensors"\nconfig = "sd"')
    model = registry["m"]
    assert isinstance(model, DiffusersModel)
    before = count_parameters(model)
    tensors = original_layout.checkpoint(diffusers.StableDiffusionPipeline.from_pretrained(shelf / "sd"))
    averages = {
        name.replace("model.diffusion_model.", "model_ema.diffusion_model", 1): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model.")
    }
    original_layout.saved(tensors | averages, shelf / "ema.safetensors")
    assert count_parameters(model.model_copy(update={"source": str(shelf / "ema.safetensors")})) == before


def test_a_checkpoint_without_a_vae_draws_with_one_that_is_named(shelf: Path, draw: Callable[..., Any]) -> None:
    tensors = original_layout.checkpoint(diffusers.StableDiffusionPipeline.from_pretrained(shelf / "sd"))
    kept = {name: value for name, value in tensors.items() if not name.startswith("first_stage_model.")}
    original_layout.saved(kept, shelf / "no-vae.safetensors")
    registry = registered(
        shelf,
        bare='source = "no-vae.safetensors"\nconfig = "sd"',
        named='source = "no-vae.safetensors"\nconfig = "sd"\nvae = "sd/vae"',
        own='source = "sd"',
    )
    with pytest.raises(BadSpecification, match=re.escape("it has no VAE; name one, `vae = …`")):
        draw(registry, "bare")
    assert alike(draw(registry, "named")[0], draw(registry, "own")[0])


def test_pickled_weights_are_converted_without_running_what_is_in_them(shelf: Path) -> None:
    tensors = original_layout.checkpoint(diffusers.StableDiffusionPipeline.from_pretrained(shelf / "sd"))
    torch.save({"state_dict": tensors, "epoch": 3}, shelf / "old.ckpt")
    runner = CliRunner()
    done = runner.invoke(to_safetensors.main, [str(shelf / "old.ckpt")])
    assert done.output == f"{shelf}/old.safetensors: {len(tensors)} tensors\n"
    torch.save({"a": torch.ones(1), "b": {"c": torch.ones(1)}, "n": 3}, shelf / "mixed.ckpt")
    mixed = runner.invoke(to_safetensors.main, [str(shelf / "mixed.ckpt")])
    assert mixed.output == f"{shelf}/mixed.safetensors: 1 tensors; left out, as no tensors: b, n\n"
    made = safetensors.torch.load_file(shelf / "old.safetensors")
    assert all(torch.equal(made[name], tensor) for name, tensor in tensors.items())
    assert "is there already" in runner.invoke(to_safetensors.main, [str(shelf / "old.ckpt")]).output
    torch.save({"string_to_param": {"*": torch.ones(2, 32)}, "name": "x"}, shelf / "style.pt")
    assert to_safetensors.weights_in(shelf / "style.pt")[0].keys() == {"emb_params"}
    torch.save({"model": {"a": torch.ones(2)}, "epoch": 1}, shelf / "model.pth")
    assert to_safetensors.weights_in(shelf / "model.pth")[0].keys() == {"a"}

    torch.save({"state_dict": tensors, "callbacks": Path("x")}, shelf / "code.ckpt")
    refused = runner.invoke(to_safetensors.main, [str(shelf / "code.ckpt")])
    assert refused.exit_code == 1
    assert "it holds more than tensors and could run code" in refused.output
    (shelf / "no.ckpt").write_bytes(b"no")
    assert runner.invoke(to_safetensors.main, [str(shelf / "no.ckpt")]).exit_code == 1
    assert not list(shelf.glob("*.unfinished"))
