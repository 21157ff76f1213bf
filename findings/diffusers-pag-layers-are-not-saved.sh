#!/usr/bin/env bash
# Diffusers' pipelines with perturbed-attention guidance take `pag_applied_layers` when they are made, but do not keep it
# in their configuration: `save_pretrained` and `from_pretrained` give a pipeline that perturbs the default's layer,
# "mid". Nothing is said, and the same prompt and seed give another picture.
#
# Seen with diffusers 0.42.1, torch 2.13.0:
#   made: ['down'], read: ['mid'], the pictures differ: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.*" "accelerate==1.*" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> warnings <<'PY'
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPAGPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.manual_seed(0)
words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "s": 3, "a": 4}
text = CLIPTextConfig(
    vocab_size=5, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
)
parts = {
    "unet": UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    ),
    "vae": AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, latent_channels=4),
    "text_encoder": CLIPTextModel(text),
    "tokenizer": CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
    "scheduler": DDIMScheduler(),
    "safety_checker": None, "feature_extractor": None, "image_encoder": None, "requires_safety_checker": False,
}
made = StableDiffusionPAGPipeline(**parts, pag_applied_layers=["down"])
made.save_pretrained("saved")
read = StableDiffusionPAGPipeline.from_pretrained("saved")


def drawn(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 3, "guidance_scale": 5.0, "pag_scale": 5.0, "output_type": "np"}
    return pipeline("a", height=64, width=64, generator=torch.Generator().manual_seed(0), **arguments).images[0]


differ = abs(drawn(made) - drawn(read)).max() > 1 / 255
said = f"made: {made.pag_applied_layers}, read: {read.pag_applied_layers}, the pictures differ: {differ}"
print(said)
sys.exit(said != "made: ['down'], read: ['mid'], the pictures differ: True")
PY
