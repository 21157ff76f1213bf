"""Parts of pipelines with random weights: text encoders, their tokenizers, autoencoders."""

from collections.abc import Mapping
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.pipelines.random_weights import byte_tokenizer, text_config

#: How wide embeddings of prompts are.
TEXT = 32
#: Has each message's text, as the templates of real tokenizers have.
_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}{% endfor %}"
)


def t5() -> dict[str, Any]:
    # With one head: of hundreds of tokens, most of what such an encoder takes is where each looks at all others.
    config = transformers.T5Config(
        vocab_size=300, d_model=TEXT, d_kv=8, d_ff=37, num_layers=2, num_heads=1, feed_forward_proj="gated-gelu"
    )
    return {"encoder": transformers.T5EncoderModel(config).eval(), "tokenizer": unigram_tokenizer()}


def unigram_tokenizer() -> Any:
    """T5's tokenizer with an alphabet of characters: a letter a token, and a few words."""
    pieces = ["▁", *map(chr, range(33, 127)), "▁star", "▁red", "st", "ar", "▁a"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -8.0 + len(piece)) for piece in pieces]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def tokenizer_of_bytes(template: str = _TEMPLATE, room: int = 4096) -> Any:
    """A tokenizer of bytes such as language models have: every text is known, a byte a token."""
    symbols = ["<pad>", "<eos>", "<bos>", *bytes_to_unicode().values()]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # As those of language models do: an empty prompt is a token, too.
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", model_max_length=room
    )
    made.chat_template = template
    return made


def clip(*, projects: bool = False) -> dict[str, Any]:
    tokenizer = byte_tokenizer()
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    return {"encoder": kind(text_config(tokenizer, projection_dim=TEXT)).eval(), "tokenizer": tokenizer}


def named_texts(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Name text encoders and tokenizers as pipelines do."""
    found: dict[str, Any] = {}
    for number, part in enumerate(parts, start=1):
        ending = "" if number == 1 else f"_{number}"
        found |= {f"text_encoder{ending}": part["encoder"], f"tokenizer{ending}": part["tokenizer"]}
    return found


def vae(channels: int = 4, blocks: int = 4) -> Any:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64)[:blocks],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=0.0,
    )


def qwen_encoder(kind: str) -> Any:
    if kind == "2.5-VL":
        config = transformers.Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 300,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "rope_theta": 1000000.0,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
            vision_end_token_id=291,
            vision_start_token_id=292,
            vision_token_id=293,
            image_token_id=294,
            video_token_id=295,
        )
        return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    config = transformers.Qwen3Config(
        hidden_size=16 if kind == "3" else TEXT,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=300,
        max_position_embeddings=1024,
    )
    return (transformers.Qwen3ForCausalLM if kind == "3-causal" else transformers.Qwen3Model)(config).eval()


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def gemma(kind: Any) -> Any:
    config = transformers.Gemma2Config(
        head_dim=8,
        hidden_size=TEXT,
        intermediate_size=64,
        num_attention_heads=1,
        num_hidden_layers=2,
        num_key_value_heads=1,
        vocab_size=300,
    )
    return kind(config).eval()


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
