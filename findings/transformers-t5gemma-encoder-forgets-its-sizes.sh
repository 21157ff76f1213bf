#!/usr/bin/env bash
# An encoder of T5Gemma is made from a `T5GemmaModuleConfig`, and saves that. But its class names `T5GemmaConfig` as its
# configuration, which keeps sizes one level deeper: read again, the saved sizes are passed over, and the encoder is laid
# out as the default of two thousand million weights. A warning speaks of another model type, none of sizes; a small one
# (such as the text encoder of a small PRX pipeline of Diffusers) then does not fit its own file. Only read here, not built.
#
# Seen with transformers 5.23.0, torch 2.13.0:
#   saved: T5GemmaModuleConfig, 8 wide, 1 layers; read: T5GemmaConfig, 2304 wide, 26 layers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> warnings <<'PY'
import json
import sys

from transformers import T5GemmaConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

sizes = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4,
}
small = T5GemmaConfig(encoder=sizes, decoder=sizes, vocab_size=16).encoder
T5GemmaEncoder(small).save_pretrained("saved")
kept = json.load(open("saved/config.json"))
read = T5GemmaEncoder.config_class.from_pretrained("saved")
said = (
    f"saved: {type(small).__name__}, {kept['hidden_size']} wide, {kept['num_hidden_layers']} layers; "
    f"read: {type(read).__name__}, {read.encoder.hidden_size} wide, {read.encoder.num_hidden_layers} layers"
)
print(said)
sys.exit(said != "saved: T5GemmaModuleConfig, 8 wide, 1 layers; read: T5GemmaConfig, 2304 wide, 26 layers")
PY
