"""Models, ControlNets and VAEs in single files: made by Diffusers' `from_single_file`, without fetching anything.

Diffusers leaves empty what the file lacks, and drops what it finds no place for; of a UNet, here, both are errors.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from storage.spec.clip_tokens import merges_file
from storage.spec.model_files import (
    CONFIGURATIONS,
    configuration_folder,
    local_folder,
    own_scheduler_class,
    own_scheduler_settings,
)
from storage.spec.models import DiffusersModel, Weights
from storage.spec.single_file import UNET, look_into
from storage.spec.wrong_files import wrong_in_files

#: Of the farm's own pipelines, the parts that no tokenizer, sampler or VAE is.
_TOKENIZERS = ("tokenizer", "tokenizer_2")
#: What a ControlNet has of its UNet's configuration.
_OF_THE_UNET = (
    *("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "norm_num_groups", "act_fn"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "use_linear_projection"),
    *("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
)


def pipeline_from_file(model: DiffusersModel, dtype: torch.dtype, **parts: Any) -> Any:
    """Return the pipeline of a checkpoint; `parts` are those that it shall have instead of the file's.

    Raises ValueError with what the file lacks, or is.
    """
    if wrong := wrong_in_files(model):
        raise ValueError(wrong)
    folder = configuration_folder(model)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    kind = getattr(diffusers, index["_class_name"], None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise ValueError(f"{index['_class_name']} cannot be loaded from a single file, but from a folder")
    _check_unet(model, folder)
    own = {name: tokenizer_in(folder / name) for name in _TOKENIZERS if (index.get(name) or [None])[0]}
    settings = own_scheduler_settings(model)
    if settings:
        own["scheduler"] = _scheduler(index["scheduler"][1], folder, settings)
    return _complete(
        lambda: kind.from_single_file(
            str(local_folder(model)),
            config=str(folder),
            local_files_only=True,
            torch_dtype=dtype,
            # Neither is in such a file.
            safety_checker=None,
            feature_extractor=None,
            **{**own, **parts},
        ),
        dtype,
    )


def controlnet_from_file(weights: Weights, model: DiffusersModel, dtype: torch.dtype) -> Any:
    """Return a ControlNet in one file, put together as its `config` says, or else as the model's UNet is.

    Raises ValueError with what the file lacks.
    """
    if weights.config is not None:
        folder = configuration_folder(weights)
        return _complete(lambda: _part(ControlNetModel, weights, folder, dtype), dtype)
    with tempfile.TemporaryDirectory() as made:
        written = _as_the_unet(weights, configuration_folder(model) / "unet" / "config.json")
        (Path(made) / "config.json").write_text(json.dumps(written), encoding="utf-8")
        return _complete(lambda: _part(ControlNetModel, weights, Path(made), dtype), dtype)


def vae_from_file(weights: Weights, model: DiffusersModel, dtype: torch.dtype) -> Any:
    """Return a VAE in one file, put together as its `config` says, or else as the model's own one is.

    Raises ValueError with what the file lacks.
    """
    if weights.config is not None:
        return _complete(lambda: _part(AutoencoderKL, weights, configuration_folder(weights), dtype), dtype)
    folder = configuration_folder(model) / "vae"
    return _complete(lambda: _part(AutoencoderKL, weights, folder, dtype), dtype)


def tokenizer_in(folder: Path) -> Any:
    """Return the tokenizer of a folder; the farm's own folders share CLIP's vocabulary, made of its merges.

    Its order is that of CLIP's `SimpleTokenizer`: letters of bytes, the same at the end of a word, merges, markers.
    """
    if CONFIGURATIONS not in folder.parents:
        return CLIPTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    lines = merges_file(folder).read_text(encoding="utf-8").split("\n")[1:]
    merges = [(one, other) for one, _, other in (line.partition(" ") for line in lines if line)]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    numbers = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(
        vocab=numbers,
        merges=merges,
        pad_token=settings["pad_token"],
        model_max_length=settings["model_max_length"],
    )


def _scheduler(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    kind = getattr(diffusers, own_scheduler_class(name, settings))
    written, _ = kind.load_config(folder / "scheduler", return_unused_kwargs=True)
    return kind.from_config({**written, **settings})


def _part(kind: Any, weights: Weights, config: Path, dtype: torch.dtype) -> Any:
    file = str(local_folder(weights))
    return kind.from_single_file(file, config=str(config), local_files_only=True, torch_dtype=dtype)


def _as_the_unet(weights: Weights, unet: Path) -> dict[str, Any]:
    """Return the configuration of a ControlNet: its UNet's, less what the file, in Diffusers' names, does not have."""
    read: dict[str, Any] = json.loads(unet.read_text(encoding="utf-8"))
    written = {name: read[name] for name in _OF_THE_UNET if name in read}
    tensors = look_into(local_folder(weights)).header.tensors
    if not any(name.startswith("down_blocks.") for name in tensors):
        return written
    blocks = range(len(written["block_out_channels"]))
    depths = [_depth(tensors, f"down_blocks.{block}.attentions.0.") for block in blocks]
    written["down_block_types"] = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    if "transformer_layers_per_block" in read:
        # SDXL's small and middle ones have fewer layers.
        written["transformer_layers_per_block"] = [depth or 1 for depth in depths]
        if not (middle := _depth(tensors, "mid_block.attentions.0.")):
            written["mid_block_type"] = "UNetMidBlock2D"
        elif middle != (depths[-1] or 1):
            raise ValueError(
                f"its middle block has {middle} layers; name a folder with its configuration, `config = …`"
            )
    return written


def _depth(tensors: Mapping[str, Any], prefix: str) -> int:
    start = f"{prefix}transformer_blocks."
    return len({name.removeprefix(start).split(".")[0] for name in tensors if name.startswith(start)})


def _check_unet(model: DiffusersModel, folder: Path) -> None:
    """Raise ValueError unless a checkpoint's UNet has just what its configuration says."""
    tensors = look_into(local_folder(model)).header.tensors
    inside = sum(tensor.numbers for name, tensor in tensors.items() if name.startswith(UNET))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    taken = sum(weight.numel() for weight in unet.parameters())
    if inside != taken:
        raise ValueError(
            f"its UNet has {inside} numbers, as its configuration says ({folder.name}) {taken}: it is put together in "
            "another way (name a folder in Diffusers layout of the same kind, `config = …`), or damaged"
        )


def _complete(load: Callable[[], Any], dtype: torch.dtype) -> Any:
    """Load something and return it; check that each of its tensors was in the file. Raises ValueError."""
    try:
        loaded = load()
    except SingleFileComponentError as error:
        raise ValueError(str(error.message).split("\n")[0]) from None
    except NotImplementedError as error:
        # What the file lacks stays on the "meta" device, which the next move to another one trips over.
        raise ValueError(f"it lacks tensors that its configuration has ({error})") from None
    parts = loaded.components if hasattr(loaded, "components") else {"": loaded}
    for part, module in parts.items():
        if not isinstance(module, torch.nn.Module):
            continue
        if empty := [name for name, tensor in module.state_dict().items() if tensor.is_meta]:
            raise ValueError(f"it lacks {len(empty)} tensors of its {part or 'network'}, such as {empty[0]}")
        module.to(dtype)
    return loaded
