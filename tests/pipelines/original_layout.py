"""Parts of pipelines by the names of the original repositories, as checkpoints in single files have them.

The reverse of what Diffusers' `from_single_file` reads; written against the published layouts of Stable Diffusion,
SDXL and OpenCLIP.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def checkpoint(pipeline: Any) -> Tensors:
    """Return a Stable Diffusion or SDXL pipeline as one checkpoint."""
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in unet(pipeline.unet).items()}
    found |= {f"first_stage_model.{name}": tensor for name, tensor in vae(pipeline.vae).items()}
    if hasattr(pipeline, "text_encoder_2"):
        found |= clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        found |= open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    else:
        found |= clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    return found


def saved(tensors: Mapping[str, torch.Tensor], file: Path, **metadata: str) -> Path:
    """Write a safetensors file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata or None)
    return file


def unet(module: Any) -> Tensors:
    """Return a UNet by the names of latent diffusion."""
    layers = module.config.layers_per_block
    found = {_unet_name(name, layers): tensor for name, tensor in module.state_dict().items()}
    # An upsampler is behind the attention, where there is one.
    with_attention = {
        name.split(".")[1] for name in found if name.startswith("output_blocks.") and ".1.proj_in" in name
    }
    return {
        name.replace(".UP.", ".2." if name.split(".")[1] in with_attention else ".1."): tensor
        for name, tensor in found.items()
    }


def controlnet(module: Any) -> Tensors:
    """Return a ControlNet by the names of its first repository."""
    layers = module.config.layers_per_block
    found = {}
    for name, tensor in module.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "controlnet_cond_embedding":
            place, _, leaf = rest.rpartition(".")
            last = 2 * len(module.controlnet_cond_embedding.blocks) + 2
            number = {"conv_in": 0, "conv_out": last}.get(place)
            number = 2 + 2 * int(place.removeprefix("blocks.")) if number is None else number
            found[f"input_hint_block.{number}.{leaf}"] = tensor
        elif part == "controlnet_down_blocks":
            index, _, leaf = rest.partition(".")
            found[f"zero_convs.{index}.0.{leaf}"] = tensor
        elif part == "controlnet_mid_block":
            found[f"middle_block_out.0.{rest}"] = tensor
        else:
            found[_unet_name(name, layers)] = tensor
    return {f"control_model.{name}": tensor for name, tensor in found.items()}


def vae(module: Any) -> Tensors:
    """Return an AutoencoderKL by the names of latent diffusion."""
    top = len(module.config.block_out_channels) - 1
    found = {}
    for name, tensor in module.state_dict().items():
        renamed = _vae_name(name, top)
        is_attention = ".attn_1." in renamed and renamed.endswith(".weight") and not renamed.endswith("norm.weight")
        found[renamed] = tensor[:, :, None, None] if is_attention else tensor
    return found


def clip(module: Any, prefix: str) -> Tensors:
    """Return a text encoder of OpenAI's CLIP."""
    return {f"{prefix}text_model.{name}": tensor for name, tensor in _plain(module)}


def open_clip(module: Any, prefix: str) -> Tensors:
    """Return a text encoder by OpenCLIP's names: its three projections are one tensor."""
    found: Tensors = {}
    joined: dict[str, list[torch.Tensor]] = {}
    for name, tensor in _plain(module):
        if name.startswith("encoder.layers."):
            number, _, rest = name.removeprefix("encoder.layers.").partition(".")
            place, _, leaf = rest.rpartition(".")
            start = f"transformer.resblocks.{number}."
            if place in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                joined.setdefault(f"{start}attn.in_proj_{leaf}{place[10]}", []).append(tensor)
            else:
                found[f"{start}{_OPEN_CLIP[place]}.{leaf}"] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T
        else:
            found[
                name.replace("embeddings.token_embedding", "token_embedding")
                .replace("embeddings.position_embedding.weight", "positional_embedding")
                .replace("final_layer_norm", "ln_final")
            ] = tensor
    for name in {one[:-1] for one in joined}:
        found[name] = torch.cat([joined[name + letter][0] for letter in "qkv"])
    if "text_projection" not in found:
        found["text_projection"] = torch.eye(module.config.hidden_size)
    return {prefix + name: tensor for name, tensor in found.items()}


def _plain(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in module.state_dict().items():
        if not name.endswith("position_ids"):
            yield name.removeprefix("text_model."), tensor


def _unet_name(name: str, layers: int) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    parts = name.split(".")
    if parts[0] == "mid_block":
        number = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return f"middle_block.{number}.{_inside(parts[1], parts[3:])}"
    block, kind, index, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
    first = block * (layers + 1)
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{1 + first + layers}.0.op.{rest[-1]}"
        return f"input_blocks.{1 + first + index}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.UP.conv.{rest[-1]}"
    return f"output_blocks.{first + index}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: list[str]) -> str:
    if kind == "attentions":
        return ".".join(rest)
    return ".".join([_RESNET[rest[0]], *rest[1:]])


def _vae_name(name: str, top: int) -> str:
    parts = name.split(".")
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        side = "down" if parts[1] == "down_blocks" else "up"
        block = int(parts[2]) if side == "down" else top - int(parts[2])
        if parts[3] == "resnets":
            inner = ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
            return f"{parts[0]}.{side}.{block}.block.{parts[4]}.{inner}"
        return f"{parts[0]}.{side}.{block}.{side}sample.conv.{parts[-1]}"
    if len(parts) > 2 and parts[1] == "mid_block":
        if parts[2] == "resnets":
            return f"{parts[0]}.mid.block_{int(parts[3]) + 1}.{'.'.join(parts[4:])}"
        inner = ".".join(parts[4:-1])
        return f"{parts[0]}.mid.attn_1.{_VAE_ATTENTION[inner]}.{parts[-1]}"
    return name.replace("conv_norm_out", "norm_out")
