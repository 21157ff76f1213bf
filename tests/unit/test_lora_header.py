"""What is wrong with a LoRA file is said where it is submitted, if the file is there."""

import json
from pathlib import Path

import pytest

from storage.errors import BadSpecification
from storage.spec.picture import Request
from storage.spec.registry import parse_registry

_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def file_of(file: Path, *names: str) -> Path:
    """Write a safetensors file of empty tensors."""
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def ask(source: Path, pipeline: str = "StableDiffusionPipeline") -> None:
    registry = parse_registry(
        f'[models.m]\nkind = "diffusers"\nsource = "someone/far"\npipeline = "{pipeline}"\n'
        f'[loras.ink]\nsource = "{source}"',
        where="here",
    )
    registry.resolve(Request.parse({"prompt": "a star", "loras": {"ink": 1.0}}), seed=1)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([f"{_Q}.hada_w1_a", f"{_Q}.hada_w1_b"], "a LoHa"),
        ([f"{_Q}.lokr_w1", f"{_Q}.lokr_w2"], "a LoKr"),
        ([f"{_Q}.lora_down.weight", f"{_Q}.diff"], "differences of whole weights"),
        ([f"{_Q}.lora_down.weight", f"{_Q}.lora_mid.weight"], "Tucker"),
        (["emb_params"], "an embedding"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "no LoRA, but model.diffusion_model"),
        ([f"{_Q}.lora_down.weight", "lora_te2_text_model.lora_down.weight"], "second text encoder .*SDXL"),
    ],
)
def test_a_file_that_cannot_be_applied_is_refused_at_the_door(tmp_path: Path, names: list[str], word: str) -> None:
    with pytest.raises(BadSpecification, match=f"loras: ink .*cannot be loaded: .*{word}"):
        ask(file_of(tmp_path / "one.safetensors", *names))


def test_what_is_no_safetensors_file_or_several_is_refused_at_the_door(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(BadSpecification, match="not a safetensors file"):
        ask(tmp_path / "x.safetensors")
    file_of(tmp_path / "y.safetensors", f"{_Q}.lora_down.weight")
    with pytest.raises(BadSpecification, match="2 files: x.safetensors, y.safetensors; set weight_name"):
        ask(tmp_path)


def test_what_fits_or_is_elsewhere_passes(tmp_path: Path) -> None:
    ask(tmp_path / "elsewhere.safetensors")
    ask(file_of(tmp_path / "one.safetensors", f"{_Q}.lora_down.weight", f"{_Q}.lora_up.weight", f"{_Q}.alpha"))
    ask(file_of(tmp_path / "two.safetensors", "lora_te2_text_model.lora_down.weight"), "StableDiffusionXLPipeline")
    ask(file_of(tmp_path / "three.safetensors", "layers.0.attention.to_q.lokr_w1"), "ZImagePipeline")
