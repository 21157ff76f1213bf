"""Which pipelines have slots, and whether their rows keep to themselves."""

from typing import Any

import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

#: Exactly these: a subclass guides in another way.
_WITH_SLOTS = (
    *(StableDiffusionPipeline, StableDiffusionControlNetPipeline),
    *(StableDiffusionXLPipeline, StableDiffusionXLControlNetPipeline),
)
_ROWS = 4


def has_slots(pipeline_class: type) -> bool:
    """Tell whether pictures of a pipeline can be denoised in slots."""
    return pipeline_class in _WITH_SLOTS


@torch.inference_mode()
def rows_keep_to_themselves(pipeline: Any) -> bool:
    """Tell whether a sample gives the same bits in its row whatever is in the others, in a small call of four rows.

    The UNet and ControlNets are called as they are, not compiled: that would take minutes for a size of no use.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    first, others = (_conditions(pipeline, generator) for _ in range(2))
    for row in (0, _ROWS - 1):
        mixed = {name: tensor.clone() for name, tensor in others.items()}
        for name, tensor in mixed.items():
            tensor[row] = first[name][row]
        if not torch.equal(_predicted(pipeline, mixed)[row], _predicted(pipeline, first)[row]):
            return False
    return True


def _conditions(pipeline: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw what four rows are made of, of the smallest size that the UNet halves evenly."""
    unet = pipeline.unet
    side = 2 ** (len(unet.config.block_out_channels) - 1)
    pixels = side * pipeline.vae_scale_factor
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    shapes: dict[str, tuple[int, ...]] = {
        "sample": (unet.config.in_channels, side, side),
        "encoder_hidden_states": (77, width),
        "image": (3, pixels, pixels),
    }
    if unet.config.addition_embed_type == "text_time":
        ids = 6 * unet.config.addition_time_embed_dim
        shapes |= {"text_embeds": (unet.add_embedding.linear_1.in_features - ids,), "time_ids": (6,)}
    if unet.config.time_cond_proj_dim is not None:
        shapes["timestep_cond"] = (unet.config.time_cond_proj_dim,)
    drawn = {name: torch.randn(_ROWS, *shape, generator=generator) for name, shape in shapes.items()}
    drawn = {name: tensor.to(unet.device, unet.dtype) for name, tensor in drawn.items()}
    return drawn | {"timestep": (torch.rand(_ROWS, generator=generator) * 999).to(unet.device)}


def _predicted(pipeline: Any, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
    given: dict[str, Any] = {name: conditions[name] for name in ("sample", "timestep", "encoder_hidden_states")}
    if "text_embeds" in conditions:
        given["added_cond_kwargs"] = {name: conditions[name] for name in ("text_embeds", "time_ids")}
    steering: dict[str, Any] = {}
    controlnet = getattr(pipeline, "controlnet", None)
    for net in [] if controlnet is None else getattr(controlnet, "nets", [controlnet]):
        down, middle = net.forward(**given, controlnet_cond=conditions["image"], return_dict=False)
        steering = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    if "timestep_cond" in conditions:
        given["timestep_cond"] = conditions["timestep_cond"]
    found: torch.Tensor = pipeline.unet.forward(**given, **steering, return_dict=False)[0]
    return found
