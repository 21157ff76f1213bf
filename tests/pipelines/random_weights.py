"""Small pipelines of the real classes with random weights, to test without downloads.

A few million parameters, seconds to build, a second to render on a CPU: all is as in a real checkpoint (Diffusers
layout, safetensors, tokenizer, scheduler) but the meaning of the pictures.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

_WIDTH = 64
_TEXT = 32
#: Stable Diffusion 1.5's own schedule, and SDXL's.
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion(folder: Path) -> Path:
    """Build a Stable Diffusion 1.5 pipeline in `folder`."""
    return saved(stable_diffusion_parts, folder)


def smallest(folder: Path) -> Path:
    """Build the smallest pipeline of these classes in `folder`: for what takes long, such as compiling."""

    def build() -> Any:
        pipeline = stable_diffusion_parts()
        pipeline.register_modules(
            unet=UNet2DConditionModel(
                sample_size=_WIDTH // 2,
                block_out_channels=(8,),
                layers_per_block=0,
                down_block_types=("DownBlock2D",),
                mid_block_type=None,
                up_block_types=("CrossAttnUpBlock2D",),
                cross_attention_dim=_TEXT,
                attention_head_dim=8,
                norm_num_groups=8,
            ),
            vae=AutoencoderKL(
                block_out_channels=(8,),
                down_block_types=("DownEncoderBlock2D",),
                up_block_types=("UpDecoderBlock2D",),
                layers_per_block=0,
                mid_block_add_attention=False,
                latent_channels=4,
                norm_num_groups=8,
            ),
        )
        return pipeline

    return saved(build, folder)


def sdxl(folder: Path) -> Path:
    """Build an SDXL pipeline in `folder`."""
    return saved(sdxl_parts, folder)


def with_safety_checker(folder: Path, base: Path) -> Path:
    """Add a safety checker with random weights to the pipeline in `base`, in `folder`; it flags nothing."""

    def build() -> Any:
        vision = _vision_config()
        text = CLIPTextConfig(hidden_size=_TEXT, num_hidden_layers=1, num_attention_heads=2, projection_dim=_TEXT)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=_TEXT)
        )
        for name in ("special_care_embeds_weights", "concept_embeds_weights"):
            torch.nn.init.ones_(getattr(checker, name))
        pipeline: Any = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
        pipeline.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor(size=32, crop_size=32))
        return pipeline

    return saved(build, folder)


def kandinsky22(folder: Path) -> Path:
    """Build a combined Kandinsky 2.2 pipeline, prior and decoder, in `folder`."""
    return saved(_kandinsky22, folder)


def controlnet(folder: Path, base: Path, *, seed: int = 1) -> Path:
    """Build a ControlNet for the pipeline in `base`; its last convolutions are not zero, so that it steers."""

    def build() -> Any:
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 16, 16))
        for weight in net.controlnet_cond_embedding.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            torch.nn.init.normal_(block.weight, std=0.3)
        return net

    return saved(build, folder, seed=seed)


def lora(folder: Path, base: Path, *, seed: int = 3) -> Path:
    """Build a LoRA for the UNet of the pipeline in `base`; none of its matrices is zero, so that it shows."""
    unet: Any = UNet2DConditionModel.from_pretrained(base / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        weights = {name: torch.randn_like(weight) for name, weight in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)
    return folder


def picture(file: Path, *, seed: int) -> Path:
    """Save an image of coloured cells."""
    cells = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((90, 75), Image.Resampling.NEAREST).save(file)
    return file


def saved(build: Callable[[], Any], folder: Path, *, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build().save_pretrained(folder, safe_serialization=True)
    return folder


def stable_diffusion_parts() -> Any:
    """Return a Stable Diffusion 1.5 pipeline."""
    tokenizer = byte_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=_TEXT),
        scheduler=DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_parts() -> Any:
    """Return an SDXL pipeline."""
    tokenizer = byte_tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=_TEXT)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=2 * _TEXT,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            # The pooled prompt, and six numbers of micro-conditioning.
            projection_class_embeddings_input_dim=_TEXT + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
    )


def _kandinsky22() -> Any:
    tokenizer = byte_tokenizer()
    return KandinskyV22CombinedPipeline(
        unet=UNet2DConditionModel(
            in_channels=4,
            out_channels=8,  # noise and its variance
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(32, 64),
            layers_per_block=1,
            encoder_hid_dim=_TEXT,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=_TEXT,
            attention_head_dim=8,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
        ),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", variance_type="learned_range"
        ),
        movq=VQModel(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
            up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        ),
        prior_prior=_prior(),
        prior_image_encoder=CLIPVisionModelWithProjection(_vision_config()),
        prior_text_encoder=CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=_TEXT)),
        prior_tokenizer=tokenizer,
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        prior_image_processor=CLIPImageProcessor(size=32, crop_size=32),
    )


def _prior() -> Any:
    prior: Any = PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=_TEXT, num_layers=1, num_embeddings=77
    )
    for weight in prior.parameters():
        if weight.dim() > 1:
            # Else no prompt would make a difference that can be seen.
            torch.nn.init.normal_(weight, std=0.3)
    return prior


def _vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=_WIDTH,
    )


def _unet(**conditioning: Any) -> Any:
    return UNet2DConditionModel(
        sample_size=_WIDTH // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **conditioning,
    )


def text_config(tokenizer: Any, **more: Any) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=_TEXT,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        **more,
    )


def _vision_config() -> Any:
    return CLIPVisionConfig(
        hidden_size=_TEXT,
        projection_dim=_TEXT,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=32,
        patch_size=8,
    )


def byte_tokenizer() -> Any:
    """CLIP's tokenizer with an alphabet of bytes and no merges: every text is known, a byte a token."""
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: number for number, symbol in enumerate(vocabulary)}, merges=[], model_max_length=77
    )
