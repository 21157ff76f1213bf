"""Pipelines of other architectures than Stable Diffusion's, with random weights: the smallest that draw something."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.pipelines.random_weights import (
    byte_tokenizer,
    kandinsky22,
    saved,
    sdxl,
    stable_diffusion,
    text_config,
)

_TEXT = 32
#: Has each message's text, as the templates of real tokenizers have.
_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}{% endfor %}"
)


def build(name: str, folder: Path) -> Path:
    """Build a pipeline of this architecture in `folder`."""
    return WELL_KNOWN[name](folder) if name in WELL_KNOWN else saved(ARCHITECTURES[name], folder)


def _t5() -> dict[str, Any]:
    config = transformers.T5Config(
        vocab_size=300, d_model=_TEXT, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return {"encoder": transformers.T5EncoderModel(config).eval(), "tokenizer": unigram_tokenizer()}


def unigram_tokenizer() -> Any:
    """T5's tokenizer with an alphabet of characters: a letter a token, and a few words."""
    pieces = ["▁", *map(chr, range(33, 127)), "▁star", "▁red", "st", "ar", "▁a"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -8.0 + len(piece)) for piece in pieces]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _bytes(template: str = _TEMPLATE) -> Any:
    """A tokenizer of bytes such as language models have: every text is known, a byte a token."""
    symbols = ["<pad>", "<eos>", "<bos>", *bytes_to_unicode().values()]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # As those of language models do: an empty prompt is a token, too.
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", model_max_length=4096
    )
    made.chat_template = template
    return made


def _clip(*, projects: bool = False) -> dict[str, Any]:
    tokenizer = byte_tokenizer()
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    return {"encoder": kind(text_config(tokenizer, projection_dim=_TEXT)).eval(), "tokenizer": tokenizer}


def _texts(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Name text encoders and tokenizers as pipelines do."""
    found: dict[str, Any] = {}
    for number, part in enumerate(parts, start=1):
        ending = "" if number == 1 else f"_{number}"
        found |= {f"text_encoder{ending}": part["encoder"], f"tokenizer{ending}": part["tokenizer"]}
    return found


def _vae(channels: int = 4, blocks: int = 4) -> Any:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64)[:blocks],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=0.0,
    )


def _sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * _TEXT,
        pooled_projection_dim=2 * _TEXT,
        pos_embed_max_size=16,
    )
    # As wide as both of CLIP's embeddings.
    wide = transformers.T5Config(vocab_size=300, d_model=2 * _TEXT, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    t5 = {"encoder": transformers.T5EncoderModel(wide).eval(), "tokenizer": unigram_tokenizer()}
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        **_texts(_clip(projects=True), _clip(projects=True), t5),
    )


def _flux(*, guidance_embeds: bool) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_TEXT,
        pooled_projection_dim=_TEXT,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=_vae(),
        transformer=transformer,
        **_texts(_clip(), _t5()),
    )


def _chroma() -> Any:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_TEXT,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(), transformer=transformer, **_texts(_t5())
    )


def _qwen_encoder(kind: str) -> Any:
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
        hidden_size=16 if kind == "3" else _TEXT,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=300,
        max_position_embeddings=1024,
    )
    return (transformers.Qwen3ForCausalLM if kind == "3-causal" else transformers.Qwen3Model)(config).eval()


def _qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _qwen_image() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_qwen_vae(),
        text_encoder=_qwen_encoder("2.5-VL"),
        tokenizer=_bytes(),
        transformer=transformer,
    )


def _z_image() -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        for name in ("x_pad_token", "cap_pad_token"):
            getattr(transformer, name).copy_(torch.ones_like(getattr(transformer, name)))
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=_qwen_encoder("3"),
        tokenizer=_bytes(),
        transformer=transformer,
    )


def _flux2_klein(*, is_distilled: bool) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _TEXT,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    config = transformers.Qwen3Config(
        hidden_size=_TEXT,
        intermediate_size=16,
        num_hidden_layers=28,  # it reads layers 9, 18 and 27
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=300,
        max_position_embeddings=1024,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKLFlux2(
            block_out_channels=(16, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        ),
        text_encoder=transformers.Qwen3ForCausalLM(config).eval(),
        tokenizer=_bytes(),
        transformer=transformer,
        is_distilled=is_distilled,
    )


def _auraflow() -> Any:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=_TEXT,
        out_channels=4,
        pos_embed_max_size=256,
    )
    config = transformers.UMT5Config(vocab_size=300, d_model=_TEXT, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    encoder = {"encoder": transformers.UMT5EncoderModel(config).eval(), "tokenizer": unigram_tokenizer()}
    return diffusers.AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(), transformer=transformer, **_texts(encoder)
    )


def _pixart(kind: Any) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=32,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=_TEXT,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return kind(
        scheduler=diffusers.DPMSolverMultistepScheduler(), vae=_vae(), transformer=transformer.eval(), **_texts(_t5())
    )


def _gemma(kind: Any) -> Any:
    config = transformers.Gemma2Config(
        head_dim=8,
        hidden_size=_TEXT,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=300,
    )
    return kind(config).eval()


def _sana() -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=_TEXT,
        sample_size=16,
    )
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        encoder_qkv_multiscales=((), (), (), (5,)),
        decoder_qkv_multiscales=((), (), (), (5,)),
        encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return diffusers.SanaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=vae,
        transformer=transformer,
        text_encoder=_gemma(transformers.Gemma2Model),
        tokenizer=_bytes(),
    )


def _lumina2() -> Any:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 4, 4),
        cap_feat_dim=_TEXT,
    )
    return diffusers.Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=transformer,
        text_encoder=_gemma(transformers.Gemma2Model),
        tokenizer=_bytes(),
    )


def _hunyuan() -> Any:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=_TEXT,
        cross_attention_dim_t5=_TEXT,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=_TEXT, num_hidden_layers=1, num_attention_heads=4, intermediate_size=37
    )
    bert = {"encoder": transformers.BertModel(config).eval(), "tokenizer": _bytes()}
    return diffusers.HunyuanDiTPipeline(
        scheduler=diffusers.DDPMScheduler(),
        vae=_vae(),
        transformer=transformer.eval(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **_texts(bert, _t5()),
    )


def _cogview3() -> Any:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=_TEXT,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return diffusers.CogView3PlusPipeline(
        scheduler=diffusers.CogVideoXDDIMScheduler(), vae=_vae(), transformer=transformer, **_texts(_t5())
    )


def _cogview4() -> Any:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=_TEXT,
        time_embed_dim=8,
        condition_dim=4,
    )
    config = transformers.GlmConfig(
        hidden_size=_TEXT,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=300,
        pad_token_id=0,
    )
    return diffusers.CogView4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
        vae=_vae(),
        transformer=transformer,
        text_encoder=transformers.GlmModel(config).eval(),
        tokenizer=_bytes(),
    )


def _krea2(*, is_distilled: bool) -> Any:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": 300,
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    return diffusers.Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=_qwen_vae(),
        transformer=transformer,
        text_encoder=transformers.Qwen3VLModel(config).eval(),
        tokenizer=_bytes(),
        text_encoder_select_layers=(0, 1, 2),
        is_distilled=is_distilled,
    )


def _ovis() -> Any:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=_qwen_encoder("3"),
        tokenizer=_bytes(),
        transformer=transformer,
    )


def _kandinsky3() -> Any:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=_TEXT,
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="squaredcos_cap_v2")
    return diffusers.Kandinsky3Pipeline(unet=unet, scheduler=scheduler, movq=movq, **_texts(_t5()))


def _deepfloyd() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=_TEXT,
        encoder_hid_dim=_TEXT,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    return diffusers.IFPipeline(
        unet=unet,
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", thresholding=True, sample_max_value=1.0, variance_type="learned_range"
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
        **_texts(_t5()),
    )


def _lcm() -> Any:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT,
        attention_head_dim=8,
        norm_num_groups=8,
        time_cond_proj_dim=32,
    )
    return diffusers.LatentConsistencyModelPipeline(
        unet=unet,
        vae=_vae(),
        scheduler=diffusers.LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **_texts(_clip()),
    )


#: Those that have tests of their own, too.
WELL_KNOWN = {"sd": stable_diffusion, "sdxl": sdxl, "kandinsky22": kandinsky22}
ARCHITECTURES: Mapping[str, Callable[[], Any]] = {
    "sd3": _sd3,
    "flux-dev": lambda: _flux(guidance_embeds=True),
    "flux-schnell": lambda: _flux(guidance_embeds=False),
    "flux2-klein": lambda: _flux2_klein(is_distilled=False),
    "flux2-klein-distilled": lambda: _flux2_klein(is_distilled=True),
    "chroma": _chroma,
    "qwen-image": _qwen_image,
    "z-image": _z_image,
    "auraflow": _auraflow,
    "pixart-alpha": lambda: _pixart(diffusers.PixArtAlphaPipeline),
    "pixart-sigma": lambda: _pixart(diffusers.PixArtSigmaPipeline),
    "sana": _sana,
    "lumina2": _lumina2,
    "hunyuan": _hunyuan,
    "cogview3": _cogview3,
    "cogview4": _cogview4,
    "krea2": lambda: _krea2(is_distilled=False),
    "krea2-distilled": lambda: _krea2(is_distilled=True),
    "ovis": _ovis,
    "kandinsky3": _kandinsky3,
    "deepfloyd": _deepfloyd,
    "lcm": _lcm,
}
