"""Small checkpoints, ControlNets, VAEs and embeddings in single files, of random weights and real names."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.pipelines import original_layout, random_weights
from tests.pipelines.random_weights import byte_tokenizer, text_config


def sdxl_of_two_widths(folder: Path) -> Path:
    """Build an SDXL pipeline whose text encoders differ in width, by which Diffusers knows them in a single file."""
    tokenizer = byte_tokenizer()
    second = text_config(tokenizer, projection_dim=32)
    second.hidden_size = 48

    def build() -> Any:
        return StableDiffusionXLPipeline(
            vae=random_weights._vae(),
            text_encoder=CLIPTextModel(text_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=random_weights._unet(
                cross_attention_dim=32 + 48,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=32 + 6 * 8,
            ),
            scheduler=EulerDiscreteScheduler(**random_weights._BETAS, steps_offset=1, timestep_spacing="leading"),
        )

    return random_weights.saved(build, folder)


def checkpoint(folder: Path, file: Path, *more: str, **metadata: str) -> Path:
    """Write the pipeline in a folder as one file, with empty tensors of these names beside."""
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").exists() else StableDiffusionPipeline
    tensors = original_layout.checkpoint(kind.from_pretrained(folder))
    return original_layout.saved(tensors | {name: torch.zeros(0) for name in more}, file, **metadata)


def controlnet(folder: Path, file: Path, *, original: bool) -> Path:
    """Write the ControlNet in a folder as one file, by the first repository's names or by Diffusers'."""
    net: Any = ControlNetModel.from_pretrained(folder)
    return original_layout.saved(original_layout.controlnet(net) if original else net.state_dict(), file)


def vae(folder: Path, file: Path, *, original: bool, prefix: str = "") -> Path:
    """Write the VAE of the pipeline in a folder as one file."""
    found: Any = AutoencoderKL.from_pretrained(folder / "vae")
    tensors = original_layout.vae(found) if original else found.state_dict()
    return original_layout.saved({prefix + name: tensor for name, tensor in tensors.items()}, file)
