"""Pipelines of other architectures than Stable Diffusion's, with random weights: the smallest that draw something."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.pipelines import flow_architectures, newer_architectures, variants
from tests.pipelines.parts import TEXT, clip, gemma, named_texts, t5, tokenizer_of_bytes, vae
from tests.pipelines.random_weights import (
    kandinsky22,
    saved,
    sdxl,
    sdxl_parts,
    stable_diffusion,
    stable_diffusion_parts,
)


def build(name: str, folder: Path) -> Path:
    """Build a pipeline of this architecture in `folder`."""
    return WELL_KNOWN[name](folder) if name in WELL_KNOWN else saved(ARCHITECTURES[name], folder)


def pixart(kind: Any, layers: int = 1) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=32,
        num_layers=layers,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=TEXT,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return kind(
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=vae(),
        transformer=transformer.eval(),
        **named_texts(t5()),
    )


def sana() -> Any:
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
        caption_channels=TEXT,
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
        text_encoder=gemma(transformers.Gemma2Model),
        tokenizer=tokenizer_of_bytes(),
    )


def lumina2() -> Any:
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
        cap_feat_dim=TEXT,
    )
    return diffusers.Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        transformer=transformer,
        text_encoder=gemma(transformers.Gemma2Model),
        tokenizer=tokenizer_of_bytes(),
    )


def hunyuan() -> Any:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=TEXT,
        cross_attention_dim_t5=TEXT,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=TEXT, num_hidden_layers=1, num_attention_heads=4, intermediate_size=37
    )
    bert = {"encoder": transformers.BertModel(config).eval(), "tokenizer": tokenizer_of_bytes()}
    return diffusers.HunyuanDiTPipeline(
        scheduler=diffusers.DDPMScheduler(),
        vae=vae(),
        transformer=transformer.eval(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **named_texts(bert, t5()),
    )


def cogview3() -> Any:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=TEXT,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return diffusers.CogView3PlusPipeline(
        scheduler=diffusers.CogVideoXDDIMScheduler(), vae=vae(), transformer=transformer, **named_texts(t5())
    )


def cogview4() -> Any:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=TEXT,
        time_embed_dim=8,
        condition_dim=4,
    )
    config = transformers.GlmConfig(
        hidden_size=TEXT,
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
        vae=vae(),
        transformer=transformer,
        text_encoder=transformers.GlmModel(config).eval(),
        tokenizer=tokenizer_of_bytes(),
    )


def kandinsky3() -> Any:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=TEXT,
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
    return diffusers.Kandinsky3Pipeline(unet=unet, scheduler=scheduler, movq=movq, **named_texts(t5()))


def deepfloyd() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        layers_per_block=1,
        # Narrow, for it denoises pixels: 64 times as many places as the latents of others have.
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=TEXT,
        encoder_hid_dim=TEXT,
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
        **named_texts(t5()),
    )


def lcm() -> Any:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=8,
        norm_num_groups=8,
        time_cond_proj_dim=32,
    )
    return diffusers.LatentConsistencyModelPipeline(
        unet=unet,
        vae=vae(),
        scheduler=diffusers.LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **named_texts(clip()),
    )


#: Those that have tests of their own, too.
WELL_KNOWN = {"sd": stable_diffusion, "sdxl": sdxl, "kandinsky22": kandinsky22}
ARCHITECTURES: Mapping[str, Callable[[], Any]] = {
    "sd3": flow_architectures.sd3,
    "flux-dev": lambda: flow_architectures.flux(guidance_embeds=True),
    "flux-schnell": lambda: flow_architectures.flux(guidance_embeds=False),
    "flux2-klein": lambda: flow_architectures.flux2_klein(is_distilled=False),
    "flux2-klein-distilled": lambda: flow_architectures.flux2_klein(is_distilled=True),
    "chroma": flow_architectures.chroma,
    "qwen-image": flow_architectures.qwen_image,
    "z-image": flow_architectures.z_image,
    "auraflow": flow_architectures.auraflow,
    "pixart-alpha": lambda: pixart(diffusers.PixArtAlphaPipeline),
    "pixart-sigma": lambda: pixart(diffusers.PixArtSigmaPipeline),
    "sana": sana,
    "lumina2": lumina2,
    "hunyuan": hunyuan,
    "cogview3": cogview3,
    "cogview4": cogview4,
    "krea2": lambda: flow_architectures.krea2(is_distilled=False),
    "krea2-distilled": lambda: flow_architectures.krea2(is_distilled=True),
    "ovis": flow_architectures.ovis,
    "kandinsky3": kandinsky3,
    "deepfloyd": deepfloyd,
    "lcm": lcm,
    "sd21": variants.stable_diffusion_2,
    "sd-lcm": variants.lcm_unet,
    "sdxl-turbo": variants.sdxl_turbo,
    "sd-pag": lambda: variants.with_pag(stable_diffusion_parts(), diffusers.StableDiffusionPAGPipeline, "mid"),
    "sdxl-pag": lambda: variants.with_pag(sdxl_parts(), diffusers.StableDiffusionXLPAGPipeline, "mid"),
    "sd3-pag": lambda: variants.with_pag(
        flow_architectures.sd3(layers=2), diffusers.StableDiffusion3PAGPipeline, "blocks.1"
    ),
    "pixart-sigma-pag": lambda: variants.with_pag(
        pixart(diffusers.PixArtSigmaPipeline, layers=2), diffusers.PixArtSigmaPAGPipeline, "blocks.1"
    ),
    "sana-pag": lambda: variants.with_pag(sana(), diffusers.SanaPAGPipeline, "transformer_blocks.0"),
    "ernie-image": variants.ernie_image,
    "prx": newer_architectures.prx,
    "nucleus": newer_architectures.nucleus,
    "glm-image": newer_architectures.glm_image,
    "ideogram": newer_architectures.ideogram,
    "lumina-next": newer_architectures.lumina_next,
    "qwen-image-21": newer_architectures.qwen_image_21,
    "flux-kontext": newer_architectures.kontext,
    "flux2-dev": newer_architectures.flux2_dev,
}
#: What each of them needs beside what the farm is installed with.
PACKAGES = {
    "prx": ("ftfy",),
    "nucleus": ("torchvision",),
    "qwen-image-21": ("torchvision",),
    "flux2-dev": ("torchvision",),
}
#: Those of them that take the same controls as others.
VARIANTS = {"sd21", "sdxl-turbo", "sd-pag", "sdxl-pag", "sd3-pag", "pixart-sigma-pag", "sana-pag", "flux-kontext"}
#: Those that take a second for a picture, however small.
SLOW = {"ideogram", "glm-image"}


def packages_missing(name: str) -> list[str]:
    """Return which packages are not installed that an architecture needs."""
    return [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
