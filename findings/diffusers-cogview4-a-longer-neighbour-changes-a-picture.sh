#!/usr/bin/env bash
# Diffusers' CogView4 pipeline fills the shorter prompts of a batch up with padding tokens on the left and gives its text
# encoder (GLM) and its transformer no mask: the padding is attended to. So a prompt's own embeddings, and its picture
# for the same seed, depend on how long the other prompts of its call are. (Of real weights' pictures nothing is said
# here: these are random.)
#
# Seen with diffusers 0.42.1, transformers 5, torch 2.13.0:
#   beside a prompt as long: the same picture; beside a longer one: its embeddings differ: True, its picture differs: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.*" "accelerate==1.*" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> warnings <<'PY'
import sys

import torch
from diffusers import AutoencoderKL, CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GlmConfig, GlmModel, PreTrainedTokenizerFast

torch.manual_seed(0)
words = ["<pad>", "a", "red", "star", "on", "very", "blue", "ground"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
pipeline = CogView4Pipeline(
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left"),
    text_encoder=GlmModel(
        GlmConfig(
            hidden_size=32, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            head_dim=16, vocab_size=8, pad_token_id=0,
        )
    ).eval(),
    vae=AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ),
    transformer=CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4,
    ).eval(),
    scheduler=FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    ),
)
pipeline.set_progress_bar_config(disable=True)
short, long = "a red star", "a very " + "blue " * 40 + "ground"


def embedded(prompts):
    """The first prompt's own tokens, which stand at the end."""
    return pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)[0][0, -3:]


def drawn(prompts):
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    return pipeline(prompts, height=64, width=64, num_inference_steps=3, generator=generators, negative_prompt=["a"] * len(prompts), output_type="np").images[0]


alone, twice, beside = (drawn(prompts) for prompts in ([short], [short, short], [short, long]))
tokens = (embedded([short]) - embedded([short, long])).abs().max() / embedded([short]).abs().max()
said = (
    f"beside a prompt as long: {abs(alone - twice).max() * 255 < 0.1 and 'the same picture'}; beside a longer one: its "
    f"embeddings differ: {bool(tokens > 0.01)}, its picture differs: {bool(abs(alone - beside).max() > 1 / 255)}"
)
print(said)
sys.exit(said != "beside a prompt as long: the same picture; beside a longer one: its embeddings differ: True, its picture differs: True")
PY
