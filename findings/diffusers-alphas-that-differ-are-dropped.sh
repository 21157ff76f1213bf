#!/usr/bin/env bash
# A LoRA in kohya's format may have another alpha in each module (trainers' block-wise dimensions, LyCORIS' presets);
# each module's change is alpha / rank times the product of its matrices. Diffusers 0.42 hands the alphas to PEFT under
# its old names of attention layers (`…attn1.processor.to_q_lora.down.weight`), which no module has: PEFT ignores them,
# with a warning, and every attention layer gets the most frequent alpha. Two files that differ in one alpha are one picture.
#
# Seen with diffusers 0.42.1, peft 0.21.2:
#   alphas 1, 2, 4, 4 of q, k, v, out are applied as 4, 4, 4, 4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "peft==0.21.2" "transformers==5.23.0" "accelerate" 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(8,),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D",),
    mid_block_type=None,
    up_block_types=("UpBlock2D",),
    cross_attention_dim=8,
    attention_head_dim=8,
    norm_num_groups=8,
)
path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
given = {"to_q": 1.0, "to_k": 2.0, "to_v": 4.0, "to_out.0": 4.0}
tensors = {}
for name, alpha in given.items():
    key = "lora_unet_" + f"{path}.{name}".replace(".", "_")
    tensors[f"{key}.lora_down.weight"] = torch.ones(4, 8)
    tensors[f"{key}.lora_up.weight"] = torch.ones(8, 4)
    tensors[f"{key}.alpha"] = torch.tensor(alpha)
converted, alphas = StableDiffusionPipeline.lora_state_dict(tensors)
StableDiffusionPipeline.load_lora_into_unet(converted, network_alphas=alphas, unet=unet, adapter_name="one")
applied = [unet.get_submodule(f"{path}.{name}").scaling["one"] * 4 for name in given]
said = (
    f"alphas {', '.join(f'{alpha:g}' for alpha in given.values())} of q, k, v, out "
    f"are applied as {', '.join(f'{alpha:g}' for alpha in applied)}"
)
print(said)
sys.exit(said != "alphas 1, 2, 4, 4 of q, k, v, out are applied as 4, 4, 4, 4")
PY
