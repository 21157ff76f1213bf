"""Pipelines of models that came lately, or that few have, with random weights: the smallest that draw something."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import AddedToken
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from tests.pipelines.flow_architectures import flux
from tests.pipelines.parts import (
    TEXT,
    flux2_vae,
    gemma,
    qwen_vae,
    t5,
    tokenizer_of_bytes,
    vae,
)

#: Tokens of images and videos, of which a prompt has none.
_OF_PICTURES = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
#: A small language model; with one head, for prompts are filled up to thousands of tokens, each of which looks at all.
_WORDS = {
    "hidden_size": TEXT,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 300,
}


def prx() -> Any:
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=TEXT,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[8, 8],
    )
    config = transformers.T5GemmaConfig(encoder=_WORDS, decoder=_WORDS, vocab_size=300)
    encoder = T5GemmaEncoder(config.encoder).eval()
    # Read back with that of the encoder alone, it has the size of the real one.
    encoder.config = config
    tokenizer = tokenizer_of_bytes()
    tokenizer.model_max_length = 256
    return diffusers.PRXPipeline(
        transformer=_seen(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoder,
        tokenizer=tokenizer,
        vae=vae(),
    )


def nucleus() -> Any:
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=TEXT,
        axes_dims_rope=(8, 4, 4),
        mlp_ratio=1.0,
        dense_moe_strategy="all_moe",
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=1.0,
    )
    return diffusers.NucleusMoEImagePipeline(
        transformer=_seen(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=qwen_vae(),
        # It reads the last layer but seven.
        text_encoder=transformers.Qwen3VLForConditionalGeneration(_qwen3_vl(layers=9)).eval(),
        processor=_qwen_processor(),
    )


def qwen_image_21() -> Any:
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=TEXT,
        axes_dims_rope=(8, 4, 4),
    )
    autoencoder = diffusers.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        text_encoder=transformers.Qwen3VLForConditionalGeneration(_qwen3_vl(layers=2)).eval(),
        processor=_qwen_processor(),
        transformer=_seen(transformer),
    )


def ideogram() -> Any:
    def transformer() -> Any:
        return _seen(
            diffusers.Ideogram4Transformer2DModel(
                in_channels=16,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                intermediate_size=32,
                adaln_dim=16,
                # Of thirteen layers of its text encoder.
                llm_features_dim=13 * TEXT,
                mrope_section=(4, 2, 2),
            )
        )

    return diffusers.Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=transformers.Qwen3VLModel(_qwen3_vl(layers=36)).eval(),
        tokenizer=tokenizer_of_bytes(),
        transformer=transformer(),
        unconditional_transformer=transformer(),
    )


def lumina_next() -> Any:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=TEXT,
    )
    return diffusers.LuminaPipeline(
        transformer=_seen(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=gemma(transformers.Gemma2Model),
        tokenizer=tokenizer_of_bytes(),
    )


def kontext() -> Any:
    # A FLUX.1 that can also be shown a picture; drawn without one.
    return diffusers.FluxKontextPipeline(**flux(guidance_embeds=True).components)


def flux2_dev() -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * TEXT,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=True,
    )
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        # It reads layers 10, 20 and 30.
        text_config=transformers.MistralConfig(**_WORDS | {"num_hidden_layers": 30}),
        vision_config=transformers.PixtralVisionConfig(**vision, image_size=32, patch_size=8),
    )
    tokenizer = tokenizer_of_bytes()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    return diffusers.Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=transformers.Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=transformers.PixtralProcessor(
            transformers.PixtralImageProcessor(), tokenizer, chat_template=tokenizer.chat_template
        ),
        transformer=_seen(transformer),
    )


def glm_image() -> Any:
    transformer = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=TEXT,
        time_embed_dim=8,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=64,
    )
    # Its dictionary of pieces of pictures is 64 large; nothing that it draws lots among ends a picture early.
    marks = {"image_start_token_id": 64, "image_end_token_id": 65, "image_token_id": 290}
    config = transformers.GlmImageConfig(
        text_config={
            **{name: value for name, value in _WORDS.items() if name != "head_dim"},
            # Each is as wide as these heads share.
            "num_attention_heads": 2,
            "vision_vocab_size": 64,
            "pad_token_id": 0,
            "eos_token_id": 200,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        vq_config={"embed_dim": 16, "num_embeddings": 64, "latent_channels": 16},
        **marks,
    )
    encoder = t5()
    autoencoder = vae()
    autoencoder.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    return diffusers.GlmImagePipeline(
        tokenizer=transformers.ByT5Tokenizer(),
        processor=_glm_processor(),
        text_encoder=_byt5(encoder["encoder"]),
        vision_language_encoder=transformers.GlmImageForConditionalGeneration(config).eval(),
        vae=autoencoder,
        transformer=_seen(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _byt5(encoder: Any) -> Any:
    """Give an encoder room for every byte."""
    encoder.resize_token_embeddings(400)
    return encoder


def _glm_processor() -> Any:
    plain = tokenizer_of_bytes()
    marks = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        extra_special_tokens=marks,
        **{name: getattr(plain, name) for name in ("pad_token", "eos_token", "bos_token", "chat_template")},
        padding_side="left",
    )
    return transformers.GlmImageProcessor(
        transformers.GlmImageImageProcessor(), tokenizer, chat_template=tokenizer.chat_template
    )


def _qwen3_vl(*, layers: int) -> Any:
    return transformers.Qwen3VLConfig(
        text_config={**_WORDS, "num_hidden_layers": layers},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": TEXT},
    )


def _qwen_processor() -> Any:
    tokenizer = tokenizer_of_bytes()
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in _OF_PICTURES])
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def _seen(transformer: Any, *, std: float = 0.3) -> Any:
    """Give large numbers to layers: before training no prompt would make a difference that can be seen."""
    with torch.no_grad():
        for weight in transformer.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=std)
    return transformer.eval()
