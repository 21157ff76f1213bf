"""Variants of well-known pipelines, with random weights: perturbed attention, v-prediction, distilled ones."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.pipelines.parts import TEXT, flux2_vae, tokenizer_of_bytes
from tests.pipelines.random_weights import sdxl_parts, stable_diffusion_parts


def stable_diffusion_2() -> Any:
    """Stable Diffusion 2.1, which predicts velocities."""
    pipeline = stable_diffusion_parts()
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    return pipeline


def with_pag(pipeline: Any, kind: Any, layers: str | list[str]) -> Any:
    """Perturb the attention of a pipeline's layers."""
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    unset = (
        {"safety_checker": None, "feature_extractor": None} if kind.__name__.startswith("StableDiffusionPAG") else {}
    )
    return kind(**parts, **unset, pag_applied_layers=layers)


def sdxl_turbo() -> Any:
    """SDXL-Turbo: its scheduler's file says where its timesteps are."""
    pipeline = sdxl_parts()
    pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    return pipeline


def lcm_unet() -> Any:
    """Stable Diffusion with the UNet of an LCM, which is told the guidance scale."""
    pipeline = stable_diffusion_parts()
    unet = diffusers.UNet2DConditionModel.from_config(pipeline.unet.config, time_cond_proj_dim=32)
    pipeline.register_modules(unet=unet, scheduler=diffusers.LCMScheduler.from_config(pipeline.scheduler.config))
    return pipeline


def ernie_image() -> Any:
    """ERNIE-Image, which `AutoPipelineForText2Image` does not know, with the language model that rewrites prompts."""
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=TEXT,
        rope_axes_dim=(4, 6, 6),
    )
    with torch.no_grad():
        for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):
            # Zero before training: no prompt would make a difference.
            torch.nn.init.normal_(layer.weight, std=0.3)
    sizes: dict[str, Any] = {
        "hidden_size": TEXT,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 300,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**sizes),
        vision_config=transformers.PixtralVisionConfig(**vision, image_size=32, patch_size=8),
    )
    rewriter = transformers.Ministral3Config(**sizes, pad_token_id=0)
    return diffusers.ErnieImagePipeline(
        transformer=transformer,
        vae=flux2_vae(),
        text_encoder=transformers.Mistral3Model(config).eval(),
        tokenizer=tokenizer_of_bytes(room=256),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        pe=transformers.Ministral3ForCausalLM(rewriter).eval(),
        pe_tokenizer=tokenizer_of_bytes(),
    )
