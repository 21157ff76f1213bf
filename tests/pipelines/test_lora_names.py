"""The names that trainers give layers mean the layers of the model, each one of them."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from worker.rendering.lora_names import Layers, split


class _Pipeline:
    """What `Layers` looks at: a UNet of SDXL's structure, with fewer channels."""

    _lora_loadable_modules = ("unet", "text_encoder")
    text_encoder = None

    def __init__(self) -> None:
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(
                block_out_channels=(8, 16, 16),
                norm_num_groups=4,
                attention_head_dim=4,
                cross_attention_dim=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=32,
            )


def _resnet(place: str, *, narrows: bool = False) -> list[str]:
    inner = ["in_layers_2", "emb_layers_1", "out_layers_3", *(["skip_connection"] if narrows else [])]
    return [f"{place}_{name}" for name in inner]


def _transformer(place: str, blocks: int) -> list[str]:
    inner = [f"attn{n}_to_{name}" for n in (1, 2) for name in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
    each = [f"{place}_transformer_blocks_{number}_{name}" for number in range(blocks) for name in inner]
    return [f"{place}_proj_in", *each, f"{place}_proj_out"]


def _of_original_code() -> list[str]:
    """Every layer of SDXL's UNet by the original code's names, as kohya's trainer writes them."""
    names = ["time_embed_0", "time_embed_2", "label_emb_0_0", "label_emb_0_2", "input_blocks_0_0", "out_2"]
    for number in (1, 2, 4, 5, 7, 8):
        names += _resnet(f"input_blocks_{number}_0", narrows=number == 4)
    names += ["input_blocks_3_0_op", "input_blocks_6_0_op"]
    for number, blocks in ((4, 1), (5, 1), (7, 2), (8, 2)):
        names += _transformer(f"input_blocks_{number}_1", blocks)
    names += [*_resnet("middle_block_0"), *_transformer("middle_block_1", 2), *_resnet("middle_block_2")]
    for number in range(9):
        names += _resnet(f"output_blocks_{number}_0", narrows=True)
    for number, blocks in ((0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (5, 1)):
        names += _transformer(f"output_blocks_{number}_1", blocks)
    return [*names, "output_blocks_2_2_conv", "output_blocks_5_2_conv"]


@pytest.fixture(scope="module")
def pipeline() -> _Pipeline:
    return _Pipeline()


def test_every_layer_of_sdxl_is_found_by_its_original_name(pipeline: _Pipeline) -> None:
    layers = Layers(pipeline)
    found = [layers.find(f"lora_unet_{name}") for name in _of_original_code()]
    assert None not in found
    every = {
        ("unet", path)
        for path, layer in pipeline.unet.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert len(found) == len(set(found))
    assert set(found) == every


def test_blocks_are_found_in_the_same_order(pipeline: _Pipeline) -> None:
    layers = Layers(pipeline)
    for name, path in {
        "input_blocks_5_1_proj_in": "down_blocks.1.attentions.1.proj_in",
        "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "middle_block_2_in_layers_2": "mid_block.resnets.1.conv1",
        "output_blocks_8_0_out_layers_3": "up_blocks.2.resnets.2.conv2",
        "output_blocks_4_1_proj_out": "up_blocks.1.attentions.1.proj_out",
        "out_2": "conv_out",
    }.items():
        assert layers.find(f"lora_unet_{name}") == ("unet", path)


@pytest.mark.parametrize(
    "name", ["lora_unet_input_blocks_99_1_proj_in", "lora_te_text_model_x", "lora_te2_x", "unet.nothing", "x"]
)
def test_what_the_model_does_not_have_is_not_found(pipeline: _Pipeline, name: str) -> None:
    assert Layers(pipeline).find(name) is None


def test_a_layer_is_found_by_names_with_dots_and_by_pefts(pipeline: _Pipeline) -> None:
    layers, path = Layers(pipeline), "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    for name in (f"unet.{path}", f"base_model.model.{path}", path, f"lora_unet_{path.replace('.', '_')}"):
        assert layers.find(name) == ("unet", path)


def test_a_layer_is_found_by_names_of_onetrainer_and_of_lycoris_alone(pipeline: _Pipeline) -> None:
    layers, path = Layers(pipeline), "down_blocks.1.attentions.1.proj_in"
    # OneTrainer's LoRAs of SDXL have the original code's blocks, with dots.
    for name in ("unet.input_blocks.5.1.proj_in", f"lycoris_{path.replace('.', '_')}"):
        assert layers.find(name) == ("unet", path)


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("lora_unet_x.lora_down.weight", "lora_unet_x", "down"),
        ("unet.a.b.lora_B.bias", "unet.a.b", "bias"),
        ("lora_te_x.dora_scale", "lora_te_x", "magnitude"),
        ("lora_te_x.lokr_w2_a", "lora_te_x", "lokr_w2_a"),
    ],
)
def test_a_tensors_name_says_its_layer_and_part(name: str, layer: str, part: str) -> None:
    assert split(name) == (layer, part)
    assert split("something.else") is None
