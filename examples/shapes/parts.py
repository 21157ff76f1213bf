"""What the model is made of: stock classes of Diffusers and Transformers, small enough for a repository."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from examples.shapes.drawings import SIDE
from examples.shapes.prompts import vocabulary

#: Width of the text encoder's states.
TEXT_WIDTH = 96
#: Heads of the attention that pools a prompt's states.
POOLING_HEADS = 8
#: Pixels of a latent cell.
LATENT = 4


def tokenizer() -> Any:
    """CLIP's byte-pair encoding, learned from the vocabulary: each of its words is one token, others are several."""
    merges: Any = _merges(vocabulary())
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(first + second for first, second in merges)]
    known = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(known)}, merges=merges, model_max_length=77
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The most frequent pair of neighbours becomes one, again and again, until every word is one.

    Not by the library `tokenizers`: it breaks ties at random, and a token is to have the same number in every run.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in split for pair in pairwise(parts)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        split = [_merged(parts, merges[-1]) for parts in split]
    return merges


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def text_encoder(tokens: Any) -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH * 2,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokens.model_max_length,
        )
    )


def unet() -> Any:
    return UNet2DConditionModel(
        sample_size=SIDE // LATENT,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        # The whole prompt also steers every block, by way of the time embedding: without it, words reach the picture by
        # cross-attention alone, and a network of this size did not learn to name forms in 100,000 samples.
        addition_embed_type="text",
        addition_embed_type_num_heads=POOLING_HEADS,
        resnet_time_scale_shift="scale_shift",
    )


def controlnet(unet: Any) -> Any:
    """A ControlNet that begins as a copy of the UNet's way down."""
    # Two halvings: a picture's pixels to the latents' cells.
    empty = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(16, 32, 32), load_weights_from_unet=False
    )
    # `from_unet` (Diffusers 0.42) leaves the number of heads out.
    given = {name: value for name, value in empty.config.items() if not name.startswith("_")}
    net = ControlNetModel(**given | {"addition_embed_type_num_heads": POOLING_HEADS})
    for name in ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block"):
        getattr(net, name).load_state_dict(getattr(unet, name).state_dict())
    return net


def noise_schedule() -> Any:
    """DDPM's linear schedule: unlike Stable Diffusion's it ends in pure noise, and backgrounds come out as asked."""
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
