"""The real configurations of three models, with random weights that are made on the device: speed does not read them.

A tiny one of each has the same classes, blocks and inputs, for trying the benchmark itself on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

# They say of every cast that it has no exceptions.
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()

#: Tokens of a prompt, as CLIP reads it.
_TOKENS = 77
_GUIDANCE = 7.5
#: The noise schedule of Stable Diffusion 1.5, and SDXL's.
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_BIG_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
_TINY_CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_TINY_VAE = _VAE | {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 8}
_MOVQ = {
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_type": "spatial",
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model at its own picture size."""

    name: str
    #: Width and height of a picture and of its latents.
    side: int
    latent: int
    unet: Mapping[str, Any]
    decoder: Mapping[str, Any]
    #: The text encoders' configurations, in the pipeline's order; none: it takes embeddings of images.
    texts: Sequence[Mapping[str, Any]] = ()
    #: TFLOP of a UNet row and of a decoded picture, which guard the configuration; None: a tiny one's.
    known: tuple[float, float] | None = None


def architecture(name: str, *, tiny: bool) -> Architecture:
    """Return one of `NAMES`."""
    return _TINY[name] if tiny else _REAL[name]


_REAL = {
    "sd15": Architecture(
        name="sd15",
        side=512,
        latent=64,
        unet={
            "sample_size": 64,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "block_out_channels": (320, 640, 1280, 1280),
        },
        decoder=_VAE | {"scaling_factor": 0.18215, "sample_size": 512},
        texts=(_CLIP_L | {"hidden_act": "quick_gelu"},),
        known=(0.803, 2.515),
    ),
    "sdxl": Architecture(
        name="sdxl",
        side=1024,
        latent=128,
        unet={
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        decoder=_VAE | {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True},
        texts=(
            _CLIP_L | {"hidden_act": "quick_gelu"},
            _CLIP_BIG_G | {"hidden_act": "gelu", "projection_dim": 1280},
        ),
        known=(6.761, 10.47),
    ),
    "kandinsky22": Architecture(
        name="kandinsky22",
        side=512,
        latent=64,
        unet={
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 8,
            "cross_attention_dim": 768,
            "attention_head_dim": 64,
            "block_out_channels": (384, 768, 1152, 1536),
            "layers_per_block": 3,
            "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
            "encoder_hid_dim": 1280,
            "encoder_hid_dim_type": "image_proj",
            "addition_embed_type": "image",
            "resnet_time_scale_shift": "scale_shift",
        },
        decoder=_MOVQ,
        known=(0.856, 2.0),
    ),
}
_TINY = {
    "sd15": Architecture(
        name="sd15",
        side=16,
        latent=16,
        # The least that is compiled in seconds.
        unet={
            "sample_size": 16,
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            "block_out_channels": (8,),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("CrossAttnDownBlock2D",),
            "mid_block_type": None,
            "up_block_types": ("UpBlock2D",),
        },
        decoder={
            "block_out_channels": (8,),
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
            "layers_per_block": 0,
            "mid_block_add_attention": False,
            "latent_channels": 4,
            "norm_num_groups": 8,
        },
        texts=(_TINY_CLIP,),
    ),
    "sdxl": Architecture(
        name="sdxl",
        side=64,
        latent=8,
        unet={
            "sample_size": 8,
            "cross_attention_dim": 64,
            "attention_head_dim": (2, 4),
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": 1,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
        },
        decoder=_TINY_VAE | {"sample_size": 64, "force_upcast": True},
        texts=(_TINY_CLIP, _TINY_CLIP | {"projection_dim": 32}),
    ),
    "kandinsky22": Architecture(
        name="kandinsky22",
        side=64,
        latent=8,
        unet={
            **_REAL["kandinsky22"].unet,
            "sample_size": 8,
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "encoder_hid_dim": 32,
        },
        decoder=_MOVQ | {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8},
    ),
}
NAMES = tuple(_REAL)


def make_unet(arch: Architecture, *, device: str, dtype: torch.dtype) -> Any:
    """Make a UNet with random weights on the device; `meta` has none at all."""
    with torch.device(device):
        unet: Any = diffusers.UNet2DConditionModel(**arch.unet)
    return unet.to(dtype).eval()


@torch.inference_mode(False)
def make_decoder(arch: Architecture, *, device: str, dtype: torch.dtype) -> Any:
    """Make what turns latents into pictures: a VAE, or Kandinsky's MoVQ."""
    kind: Any = diffusers.VQModel if arch.name == "kandinsky22" else diffusers.AutoencoderKL
    with torch.device(device):
        decoder = kind(**arch.decoder)
    return decoder.to(dtype).eval()


# Weights that are made in inference mode are of another kind of tensor, which a farm's never are.
@torch.inference_mode(False)
def make_pipeline(arch: Architecture, *, device: str, dtype: torch.dtype) -> Any:
    """Make a whole pipeline on the device; equal weights each time, and before they were rounded in each precision."""
    torch.manual_seed(0)
    parts = {
        "unet": make_unet(arch, device=device, dtype=torch.float32),
        "movq" if arch.name == "kandinsky22" else "vae": make_decoder(arch, device=device, dtype=torch.float32),
    }
    made: Any
    if arch.name == "kandinsky22":
        scheduler = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", variance_type="learned_range"
        )
        made = diffusers.KandinskyV22Pipeline(scheduler=scheduler, **parts)
    else:
        made = _of_texts(arch, parts, device)
    made.to(dtype=dtype)
    made.set_progress_bar_config(disable=True)
    if device == "cuda":
        # As the farm lays a model out on a GPU.
        for part in ("unet", "vae", "movq"):
            if hasattr(made, part):
                lay_out(getattr(made, part), torch.channels_last)
    return made


@torch.inference_mode(False)
def lay_out(part: torch.nn.Module, layout: torch.memory_format) -> None:
    """Put a model's convolutions into a memory layout."""
    part.to(memory_format=layout)  # type: ignore[call-overload]


def _of_texts(arch: Architecture, parts: Mapping[str, Any], device: str) -> Any:
    tokenizer = _byte_tokenizer()
    encoders = {}
    for number, text in enumerate(arch.texts, start=1):
        kind: Any = transformers.CLIPTextModelWithProjection if number == 2 else transformers.CLIPTextModel
        ending = "" if number == 1 else f"_{number}"
        # As many rows as the real vocabulary has, of which these prompts use 514.
        config = transformers.CLIPTextConfig(
            vocab_size=49408,
            max_position_embeddings=_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **text,
        )
        with torch.device(device):
            encoders[f"text_encoder{ending}"] = kind(config).eval()
        encoders[f"tokenizer{ending}"] = tokenizer
    if arch.name == "sdxl":
        euler = diffusers.EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading")
        return diffusers.StableDiffusionXLPipeline(scheduler=euler, **parts, **encoders)
    ddim = diffusers.DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return diffusers.StableDiffusionPipeline(
        scheduler=ddim,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
        **encoders,
    )


def _byte_tokenizer() -> Any:
    """CLIP's tokenizer with an alphabet of bytes and no merges: every text is known, a byte a token."""
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(
        vocab={symbol: number for number, symbol in enumerate(vocabulary)}, merges=[], model_max_length=_TOKENS
    )


def unet_inputs(arch: Architecture, rows: int, *, device: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """Return a UNet's arguments for so many rows, each row with its own timestep, drawn from a seed."""
    generator = None if device == "meta" else torch.Generator("cpu").manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if generator is None:
            return torch.empty(*shape, device="meta", dtype=dtype)
        return torch.randn(*shape, generator=generator).to(device, dtype)

    given: dict[str, Any] = {
        "sample": draw(rows, 4, arch.latent, arch.latent),
        "timestep": torch.arange(rows, device=device).float() * 31 % 999,
        "encoder_hidden_states": None,
    }
    if arch.name == "kandinsky22":
        given["added_cond_kwargs"] = {"image_embeds": draw(rows, arch.unet["encoder_hid_dim"])}
        return given
    given["encoder_hidden_states"] = draw(rows, _TOKENS, arch.unet["cross_attention_dim"])
    if arch.name == "sdxl":
        pooled = arch.unet["projection_class_embeddings_input_dim"] - 6 * arch.unet["addition_time_embed_dim"]
        sizes = torch.tensor([[arch.side, arch.side, 0, 0, arch.side, arch.side]] * rows, device=device, dtype=dtype)
        given["added_cond_kwargs"] = {"text_embeds": draw(rows, pooled), "time_ids": sizes}
    return given


@torch.inference_mode()
def draw_pictures(pipeline: Any, arch: Architecture, seeds: Sequence[int], *, steps: int) -> torch.Tensor:
    """Call a pipeline once for a picture of each seed: (batch, channel, height, width), 0…1, on the device."""
    asked: dict[str, Any] = {
        # On the CPU, as the farm does.
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        "width": arch.side,
        "height": arch.side,
        "num_inference_steps": steps,
        "guidance_scale": _GUIDANCE,
        "output_type": "pt",
    }
    if arch.name == "kandinsky22":
        width = arch.unet["encoder_hid_dim"]
        words = [torch.randn(1, width, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        embeds = torch.cat(words).to(pipeline.unet.device, pipeline.unet.dtype)
        asked |= {"image_embeds": embeds, "negative_image_embeds": torch.zeros_like(embeds)}
    else:
        asked |= {"prompt": [prompt_of(seed) for seed in seeds], "negative_prompt": [""] * len(seeds)}
    made: torch.Tensor = pipeline(**asked).images
    return made


def prompt_of(seed: int) -> str:
    """Return a prompt of its own for each seed."""
    return f"a large red star number {seed} on a blue background, top left"
