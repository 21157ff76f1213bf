#!/usr/bin/env bash
# Diffusers 0.42, `from_pretrained` without a `torch_dtype` that differs from the file's, on a CPU: the loaded parameters
# *are* the safetensors file, mapped into memory. Whoever writes other weights over the file (a training run that saves
# again, a sync that updates files in place) changes the model that a running process has loaded, between two of its
# pictures or within one. With another dtype than the file's, the parameters are copies and stay.
#
# Seen with diffusers 0.42.1, torch 2.13.0, safetensors 0.8.0:
#   as the file is: weights changed; in another dtype: weights stayed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.*" "accelerate==1.*" "safetensors==0.8.0" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel


def unet(value):
    made = UNet2DConditionModel(
        block_out_channels=(8,), norm_num_groups=8, layers_per_block=1, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), mid_block_type=None, cross_attention_dim=8, attention_head_dim=8,
    )
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, value)
    return made


unet(0.25).save_pretrained("loaded")
unet(0.75).save_pretrained("newer")
file, newer = (Path(name, "diffusion_pytorch_model.safetensors") for name in ("loaded", "newer"))
assert file.stat().st_size == newer.stat().st_size
said = []
for name, dtype in (("as the file is", torch.float32), ("in another dtype", torch.bfloat16)):
    unet(0.25).save_pretrained("loaded")
    model = UNet2DConditionModel.from_pretrained("loaded", torch_dtype=dtype)
    assert model.conv_out.weight[0, 0, 0, 0].item() == 0.25
    with file.open("r+b") as opened:
        opened.write(newer.read_bytes())
    now = model.conv_out.weight[0, 0, 0, 0].item()
    said.append(f"{name}: weights {'changed' if now == 0.75 else 'stayed' if now == 0.25 else now}")
print("; ".join(said))
sys.exit("; ".join(said) != "as the file is: weights changed; in another dtype: weights stayed")
PY
