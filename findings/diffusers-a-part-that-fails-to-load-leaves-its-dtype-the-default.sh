#!/usr/bin/env bash
# Diffusers 0.42, `ModelMixin.from_pretrained(..., torch_dtype=torch.bfloat16)`: the class is made with the process's
# default dtype set to that one. If that fails (a block that the installed version does not know), the default dtype
# stays as it is: whatever makes tensors without naming a dtype does so in half precision from then on.
#
# Seen with diffusers 0.42.1, torch 2.13.0:
#   ValueError: the default dtype is torch.bfloat16; torch.tensor([6.3]) is 6.3125
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.*" "accelerate==1.*" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import json
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

unet = UNet2DConditionModel(
    block_out_channels=(8,), norm_num_groups=8, layers_per_block=1, down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",), mid_block_type=None, cross_attention_dim=8, attention_head_dim=8,
)
unet.save_pretrained("unet")
file = Path("unet/config.json")
file.write_text(json.dumps(json.loads(file.read_text()) | {"down_block_types": ["DownBlockOfTomorrow2D"]}))
failed = "nothing"
try:
    UNet2DConditionModel.from_pretrained("unet", torch_dtype=torch.bfloat16)
except Exception as error:
    failed = type(error).__name__
said = f"{failed}: the default dtype is {torch.get_default_dtype()}; torch.tensor([6.3]) is {torch.tensor([6.3]).float().item()}"
print(said)
sys.exit(said != "ValueError: the default dtype is torch.bfloat16; torch.tensor([6.3]) is 6.3125")
PY
