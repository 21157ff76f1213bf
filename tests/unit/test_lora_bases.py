"""For which kind of model a LoRA was made is told by its layers, whoever wrote it, and the door says so."""

import json
from pathlib import Path

import pytest

from scheduler.intake.remarks import remarks_on
from storage.errors import BadSpecification
from storage.jobs.values import NewJob
from storage.spec.picture import Request
from storage.spec.registry import Registry, parse_registry

SD1, SD2, SDXL, SD3 = "Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "Stable Diffusion 3"
#: Names, the width that their layer takes, and of which models it may be.
LORAS = [
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 768, {SD1}),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1024, {SD2}),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 768, {SDXL, SD3, "FLUX.1"}),
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1280, {SDXL, SD3}),
    ("lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", 4096, {SD3, "FLUX.1"}),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", 768, {SD1, SDXL, SD3, "FLUX.1"}),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", 1024, {SD2}),
    ("base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", 1024, {SD2}),
    ("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", 1280, {SDXL, SD3}),
    ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", 4096, {"FLUX.1"}),
    ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", 768, {SD1}),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 1024, {SD2}),
    ("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight", 2048, {SDXL}),
    ("lora_unet_input_blocks_7_1_transformer_blocks_3_attn1_to_q.lora_down.weight", 1280, {SDXL}),
    ("unet.down_blocks.2.attentions.0.transformer_blocks.4.attn1.to_q.lora.down.weight", 1280, {SDXL}),
    ("unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", 320, {SD1, SD2}),
    ("lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_ff_net_0_proj.lora_down.weight", 320, {SD1, SD2}),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", 1536, {SD3}),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 2432, {SD3}),
    ("base_model.model.transformer_blocks.0.attn.add_q_proj.lora_A.weight", 1536, {SD3}),
    ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", 3072, {"FLUX.1"}),
    ("lora_unet_single_blocks_0_linear1.lora_down.weight", 3072, {"FLUX.1", "FLUX.2"}),
    ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight", 6144, {"FLUX.2"}),
    ("lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight", 4096, {"FLUX.1"}),
]
MODELS = {
    "StableDiffusionPipeline": {SD1, SD2},
    "StableDiffusionXLPipeline": {SDXL},
    "StableDiffusion3Pipeline": {SD3},
    "FluxPipeline": {"FLUX.1"},
    "Flux2Pipeline": {"FLUX.2"},
    "SanaPipeline": set[str](),
}


def lora(file: Path, name: str, width: int, **says: str) -> Path:
    """Write a LoRA of one matrix of no rank."""
    tensors = {name: {"dtype": "F32", "shape": [0, width], "data_offsets": [0, 0]}}
    header = json.dumps(tensors | ({"__metadata__": says} if says else {})).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def registry(source: Path, pipeline: str) -> Registry:
    models = f'[models.m]\nkind = "diffusers"\nsource = "someone/far"\npipeline = "{pipeline}"\n'
    return parse_registry(f'{models}[loras.ink]\nsource = "{source}"', where="here")


def remarks(source: Path, pipeline: str) -> list[str]:
    """Ask for a picture; what is remarked on. Raises BadSpecification."""
    entries = registry(source, pipeline)
    spec = entries.resolve(Request.parse({"prompt": "a star", "loras": {"ink": 1}}), seed=1)
    return [one for one in remarks_on(NewJob(spec=spec, labels={}), entries) if one.startswith("loras:")]


@pytest.mark.parametrize(("name", "width", "bases"), LORAS)
@pytest.mark.parametrize("pipeline", MODELS)
def test_a_wrong_base_is_named_and_an_open_one_remarked_on(
    tmp_path: Path, name: str, width: int, bases: set[str], pipeline: str
) -> None:
    file, own = lora(tmp_path / "one.safetensors", name, width), MODELS[pipeline]
    may_be_right = bool(bases & own) if own else not bases <= {SD1, SD2, SDXL}
    if not may_be_right:
        with pytest.raises(BadSpecification, match="loras: ink .*made for") as refused:
            remarks(file, pipeline)
        said = str(refused.value)
        assert all(base in said for base in bases) or (bases == {"FLUX.1", "FLUX.2"} and "FLUX" in said)
        return
    text_alone = any(part in name for part in ("lora_te", "text_"))
    told = remarks(file, pipeline)
    assert bool(told) == bool(text_alone and own and not bases <= own)
    assert all(f"may be made for {' or '.join(sorted(bases))}" in one for one in told if len(bases) == 2)


def test_what_a_trainer_says_closes_what_layers_leave_open(tmp_path: Path) -> None:
    name, width, _ = LORAS[5]
    for said, fits in (
        ({"ss_base_model_version": "sdxl_base_v1-0"}, True),
        ({"ss_base_model_version": "sd_v1"}, False),
    ):
        file = lora(tmp_path / f"{fits}.safetensors", name, width, **said)
        if fits:
            assert remarks(file, "StableDiffusionXLPipeline") == []
        else:
            with pytest.raises(BadSpecification, match=r"it was made for Stable Diffusion 1, .* \(SDXL, "):
                remarks(file, "StableDiffusionXLPipeline")
