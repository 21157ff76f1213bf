#!/usr/bin/env bash
# Kandinsky 3's pipeline cuts the embeddings of a negative prompt at the length of the longest prompt of its call, which
# itself is cut at its last word: the end of a negative prompt that is longer than the prompt is dropped, without a
# warning. So most of a long negative prompt is left out beside "a star", and all of it is there as soon as another
# prompt of the same call is long: with the same seed another picture. (Lumina does the same by other means.)
#
# Seen with diffusers 0.42.1, transformers 5.23.0, torch 2.13.0:
#   of the 8 tokens of a negative prompt: 4 beside "a star", 8 beside that and a longer prompt
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "accelerate==1.*" 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> warnings <<'PY'
import sys

import torch
from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

torch.manual_seed(0)
words = ["<pad>", "</s>", "a", "star", "red", "on", "blue", "ground", "blurry", "dark", "low", "text"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
pipeline = Kandinsky3Pipeline(
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"),
    text_encoder=T5EncoderModel(T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).eval(),
    unet=Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=1,
        block_out_channels=(8, 8, 8, 8), cross_attention_dim=4, encoder_hid_dim=8,
    ),
    scheduler=DDPMScheduler(),
    movq=VQModel(norm_num_groups=2, block_out_channels=(8,), latent_channels=4),
)


def kept(prompts):
    """How many embeddings of the first prompt's negative prompt the denoiser is given; what fills up is nothing but zeros."""
    with torch.no_grad():
        negative = pipeline.encode_prompt(
            prompts, True, device="cpu", negative_prompt=["blurry dark low text on blue ground"] * len(prompts), _cut_context=True
        )[1]
    return int(negative[0].any(dim=-1).sum())


alone, beside = kept(["a star"]), kept(["a star", "a red star on a blue ground on a red star"])
said = f'of the 8 tokens of a negative prompt: {alone} beside "a star", {beside} beside that and a longer prompt'
print(said)
sys.exit(said != 'of the 8 tokens of a negative prompt: 4 beside "a star", 8 beside that and a longer prompt')
PY
