"""What is wrong with a LoRA file is said where it is submitted, if the file is there."""

import json
from pathlib import Path

import pytest

from storage.errors import BadSpecification
from storage.spec.picture import Request
from storage.spec.registry import parse_registry

_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def file_of(file: Path, *names: str, width: int = 0, says: dict[str, str] | None = None) -> Path:
    """Write a safetensors file of tensors without values, whose second size is this one."""
    tensors = {name: {"dtype": "F32", "shape": [0, width], "data_offsets": [0, 0]} for name in names}
    header = json.dumps(tensors | ({"__metadata__": says} if says else {})).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def ask(source: Path, pipeline: str = "StableDiffusionPipeline", scale: float = 1.0) -> None:
    registry = parse_registry(
        f'[models.m]\nkind = "diffusers"\nsource = "someone/far"\npipeline = "{pipeline}"\n'
        f'[loras.ink]\nsource = "{source}"',
        where="here",
    )
    registry.resolve(Request.parse({"prompt": "a star", "loras": {"ink": scale}}), seed=1)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([f"{_Q}.oft_blocks"], "an OFT"),
        ([f"{_Q}.{name}.weight" for name in ("a1", "a2", "b1", "b2")], "a GLoRA"),
        ([f"{_Q}.lora_down.weight", f"{_Q}.diff"], "differences of whole weights"),
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


def test_a_method_is_refused_only_where_it_is_not_applied(tmp_path: Path) -> None:
    for number, names in enumerate(
        ([f"{_Q}.hada_w1_a"], [f"{_Q}.lokr_w1"], [f"{_Q}.lora_down.weight", f"{_Q}.lora_mid.weight"])
    ):
        file = file_of(tmp_path / f"{number}.safetensors", *names)
        for pipeline in ("StableDiffusionPipeline", "StableDiffusionXLControlNetPipeline"):
            ask(file, pipeline)
        with pytest.raises(BadSpecification, match="a LoHa|a LoKr|Tucker"):
            ask(file, "FluxPipeline")


_TEXT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


@pytest.mark.parametrize(
    ("name", "width", "said", "base"),
    [
        (_TEXT, 768, {}, "Stable Diffusion 1"),
        (_TEXT, 1024, {}, "Stable Diffusion 2"),
        (_TEXT, 2048, {}, "SDXL"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 2048, {}, "SDXL"),
        (f"{_Q}.lora_down.weight", 4, {"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        (f"{_Q}.lora_down.weight", 4, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "Stable Diffusion 1"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", 4, {}, "FLUX"),
        (f"{_Q}.lora_down.weight", 4, {}, None),
    ],
)
def test_a_lora_for_another_base_is_refused_by_its_name(
    tmp_path: Path, name: str, width: int, said: dict[str, str], base: str | None
) -> None:
    file = file_of(tmp_path / "one.safetensors", name, width=width, says=said)
    for pipeline, ours in (("StableDiffusionPipeline", "Stable Diffusion"), ("StableDiffusionXLPipeline", "SDXL")):
        if base is None or base.startswith(ours):
            ask(file, pipeline)
        else:
            with pytest.raises(BadSpecification, match=f"it was made for {base}, and this model is another kind"):
                ask(file, pipeline)


def test_a_file_that_was_cut_short_or_lies_is_refused_at_the_door(tmp_path: Path) -> None:
    for number, (about, word) in enumerate(
        (
            (
                {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]},
                "cut short: its tensors take 36 bytes, 0 are there",
            ),
            ({"dtype": "F32"}, "does not describe tensors"),
            (["F32"], "does not describe tensors"),
        )
    ):
        header = json.dumps({f"{_Q}.lora_down.weight": about}).encode()
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(BadSpecification, match=f"not a safetensors file: .*{word}"):
            ask(file)


@pytest.mark.parametrize("end", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_a_dora_at_another_scale_is_refused_at_the_door(tmp_path: Path, end: str) -> None:
    file = file_of(tmp_path / "one.safetensors", f"{_Q}.lora_down.weight", f"{_Q}.lora_up.weight", f"{_Q}.{end}")
    ask(file)
    ask(tmp_path)
    for source in (file, tmp_path):
        with pytest.raises(BadSpecification, match=r"it is a DoRA, .*: its scale must be 1 \(given: 0.8\)"):
            ask(source, scale=0.8)
    ask(file_of(tmp_path / "two.safetensors", f"{_Q}.lora_down.weight"), scale=0.8)


def test_a_base_is_told_by_what_takes_the_text_whatever_comes_first(tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    for number, names in enumerate((("lora_up.weight", "lora_down.weight"), ("hada_w1_a", "hada_w1_b"))):
        tensors = {
            f"{layer}.{name}": {"dtype": "F32", "shape": [0, width], "data_offsets": [0, 0]}
            for name, width in zip(names, (4, 768), strict=True)
        }
        header = json.dumps(tensors).encode()
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        ask(file)
        with pytest.raises(BadSpecification, match="it was made for Stable Diffusion 1, and this model is another"):
            ask(file, "StableDiffusionXLPipeline")
