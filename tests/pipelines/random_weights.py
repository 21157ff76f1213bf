"""A small Stable Diffusion pipeline of the real classes with random weights, to test without downloads.

3 M parameters, seconds to build, a second to render on a CPU: everything is as in a real checkpoint (Diffusers
layout, safetensors, tokenizer, scheduler) but the meaning of the pictures.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_WIDTH = 64


def stable_diffusion(folder: Path) -> Path:
    """Build the pipeline in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def _pipeline() -> Any:
    tokenizer = _byte_tokenizer()
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(16, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=_WIDTH,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=_WIDTH // 8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        ),
        # Stable Diffusion 1.5's own schedule.
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _byte_tokenizer() -> Any:
    """CLIP's tokenizer with an alphabet of bytes and no merges: every text is known, a byte a token."""
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: number for number, symbol in enumerate(vocabulary)}, merges=[], model_max_length=77
    )
