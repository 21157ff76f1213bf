"""A checkpoint that is written over while a worker has it loaded: what is asked for afterwards is drawn with the new
one, and its recipe says so."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.pipelines import original_layout, random_weights

ENTRIES = """
[models.file]
kind = "diffusers"
source = "./mine.safetensors"
config = "./parts"
vae = { source = "./vae.safetensors", config = "./parts/vae" }
width = 64
height = 64
num_inference_steps = 2
[models.folder]
kind = "diffusers"
source = "./folder"
width = 64
height = 64
num_inference_steps = 2
[embeddings.inkwash]
source = "./inkwash.safetensors"
"""


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Iterator[Home]:
    home = Home(tmp_path, starter, FARM_DEVICES="cpu:0", HF_HUB_OFFLINE="1")
    yield home
    home.is_left_in_peace()


@pytest.fixture
def files(home: Home) -> Path:
    """The folder of a registry with a checkpoint, a VAE, a folder in Diffusers layout and a textual inversion."""
    home.path.mkdir()
    random_weights.stable_diffusion(home.path / "folder")
    shutil.copytree(home.path / "folder", home.path / "parts")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(home.path / "folder")
    original_layout.saved(original_layout.checkpoint(pipeline), home.path / "mine.safetensors")
    original_layout.saved(original_layout.vae(pipeline.vae), home.path / "vae.safetensors")
    width = pipeline.text_encoder.config.hidden_size
    original_layout.saved({"emb_params": torch.linspace(-1, 1, width)[None]}, home.path / "inkwash.safetensors")
    (home.path / "models.toml").write_text(ENTRIES)
    return home.path


def changed(file: Path, *ends: str) -> str:
    """Write other numbers into the same file, over those of such tensors; its SHA-256."""
    tensors = safetensors.torch.load_file(file)
    [*some] = [name for name in tensors if name.endswith(ends)]
    assert some
    content = safetensors.torch.save({**tensors, **{name: -tensors[name] for name in some}}, {"format": "pt"})
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_what_is_written_over_is_drawn_with_afterwards(home: Home, files: Path) -> None:
    with home.started("up") as up:
        up.says("Ctrl-C stops it")

        def drawn(model: str) -> tuple[str, dict[str, Any]]:
            result = home.farm("render", "an inkwash star", "--model", model, "--seed", "1", "--json").json
            [job] = result["jobs"]
            return job["pixels_sha256"], home.farm("recipe", job["id"], "--json").json["made_with"]

        def differs(model: str, replace: Callable[[], str], told: Callable[[dict[str, Any]], str]) -> None:
            before, recipe = known.get(model) or drawn(model)
            hashed = replace()
            after, said = known[model] = drawn(model)
            assert after != before
            assert told(said) != told(recipe)
            assert hashed in (told(said), "")

        known: dict[str, tuple[str, dict[str, Any]]] = {}
        checkpoint, vae, word = (files / f"{name}.safetensors" for name in ("mine", "vae", "inkwash"))
        differs("file", lambda: changed(checkpoint, "diffusion_model.out.2.weight"), lambda said: said["sha256"])
        differs("file", lambda: changed(vae, "decoder.conv_out.weight"), lambda said: said["vae_sha256"])
        differs("file", lambda: changed(word, "emb_params"), lambda said: said["embeddings"]["inkwash"]["sha256"])
        unet = files / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
        differs("folder", lambda: changed(unet, "conv_out.weight") and "", lambda said: said["weights"])
        up.interrupted()
