"""ControlNets in single files as they are published, of full size: known by headers, put together without weights.

Files are sparse, and networks on the "meta" device: of the gigabytes there are only names and shapes.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from storage.spec.capabilities import check_controls
from storage.spec.model_files import CONFIGURATIONS
from storage.spec.models import DiffusersModel, Weights
from storage.spec.picture import Request
from storage.spec.registry import parse_registry
from storage.spec.single_file import look_into
from storage.spec.wrong_files import wrong_in_files
from tests.pipelines import original_layout
from worker.rendering.single_files import _as_the_unet

#: Family, and what a file has otherwise than its UNet (the config.json of what is published in Diffusers' names), and
#: how many millions of numbers it has, as large as the files are at 4 bytes for each; None: not compared.
PUBLISHED: Mapping[str, tuple[str, dict[str, Any], int | None]] = {
    # lllyasviel/control_v11p_sd15_canny
    "sd15": ("sd1", {}, 361),
    # thibaud/controlnet-sd21-canny-diffusers
    "sd21": ("sd2", {}, 364),
    # diffusers/controlnet-canny-sdxl-1.0, -mid and -small
    "sdxl": ("sdxl", {}, 1251),
    "sdxl-mid": ("sdxl", {"transformer_layers_per_block": [1, 1, 1]}, None),
    "sdxl-small": (
        "sdxl",
        {
            "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D"],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, 1, 1],
        },
        None,
    ),
}


@cache
def unet_of(family: str) -> Any:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGURATIONS / family / "unet"))


@cache
def like_the_unet(family: str) -> Any:
    with torch.device("meta"):
        return ControlNetModel.from_unet(unet_of(family), load_weights_from_unet=False)


def net_of(family: str, more: Mapping[str, Any]) -> Any:
    """A ControlNet of a UNet, with what it has otherwise."""
    like = like_the_unet(family)
    if not more:
        return like
    with torch.device("meta"):
        return ControlNetModel.from_config({**like.config, **more})


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def sparse(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A safetensors file of float16 with these names and shapes, whose numbers take no room on the disk."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)
    return file


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, (family, more, _) in PUBLISHED.items():
        sparse(folder / f"{name}.safetensors", shapes_of(net_of(family, more)))
    for family in ("sd1", "sdxl"):
        unet = {f"model.diffusion_model.{name}": one for name, one in original_layout.unet(unet_of(family)).items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
        texts = {
            "sd1": {"cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)},
            "sdxl": {
                "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
                "conditioner.embedders.1.model.positional_embedding": (77, 1280),
            },
        }
        vae = {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}
        sparse(folder / f"checkpoint-{family}.safetensors", {**shapes, **texts[family], **vae})
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_controlnet_is_known_and_put_together_as_it_was_trained(shelf: Path, name: str) -> None:
    family, _, millions = PUBLISHED[name]
    file = shelf / f"{name}.safetensors"
    found = look_into(file)
    assert found.kind == "ControlNet"
    assert found.family == family
    numbers = sum(tensor.numbers for tensor in found.header.tensors.values())
    assert millions in (None, round(numbers / 1e6))
    written = _as_the_unet(Weights(source=str(file)), CONFIGURATIONS / family / "unet" / "config.json")
    with torch.device("meta"):
        made: Any = ControlNetModel.from_config(written)
    assert shapes_of(made) == {key: tuple(tensor.shape) for key, tensor in found.header.tensors.items()}


@pytest.mark.parametrize(("name", "checkpoint"), [(name, to) for name in PUBLISHED for to in ("sd1", "sdxl")])
def test_it_is_taken_beside_a_checkpoint_of_its_family_alone(shelf: Path, name: str, checkpoint: str) -> None:
    text = f'[models.m]\nkind = "diffusers"\nsource = "checkpoint-{checkpoint}.safetensors"\n'
    registry = parse_registry(f'{text}controlnets = ["{name}.safetensors"]', where="here", folder=shelf)
    model = registry["m"]
    assert isinstance(model, DiffusersModel)
    family = PUBLISHED[name][0]
    if family == checkpoint:
        assert wrong_in_files(model) is None
        asked = {"prompt": "a star", "control_images": ["sha256:" + "0" * 64]}
        check_controls(registry.resolve(Request.parse(asked), seed=1), model)
    else:
        said = wrong_in_files(model)
        assert said is not None
        assert "it was made for" in said
