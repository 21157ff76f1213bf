"""LoRA files: what is in them, by PEFT's names.

Whatever a file holds is applied, or the LoRA is refused with the name of what is not. Diffusers alone leaves out some
of what trainers write, and cannot load some more: the table in worker/README.md says what.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from huggingface_hub import snapshot_download

from storage.spec.lora_header import UPS, USUAL_NAME, no_place
from storage.spec.model_files import named_folder
from storage.spec.models import Lora
from worker.rendering.own_memory import copy_to_memory

#: Tensors by name.
Tensors = dict[str, torch.Tensor]

DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def lora_file(lora: Lora) -> Path:
    """Return a LoRA's safetensors file, downloaded if need be. Raises ValueError unless there is exactly one."""
    path = named_folder(lora)
    if path is not None and path.is_file():
        return path
    if path is None:
        pattern = lora.weight_name or "*.safetensors"
        path = Path(snapshot_download(lora.source, revision=lora.revision, allow_patterns=[pattern]))
    wanted = path / (lora.weight_name or USUAL_NAME)
    if wanted.is_file():
        return wanted
    found = [] if lora.weight_name else sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found[:5])
    raise ValueError(
        f"there are {len(found)} files: {names}; set weight_name to one of them"
        if found
        else f"there is no {lora.weight_name or 'safetensors file'} in it"
    )


def read_tensors(file: Path) -> Tensors:
    """Read a safetensors file. Raises ValueError if it is none, or some of its numbers are none that can be applied."""
    try:
        found = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    for name, tensor in found.items():
        _check_numbers(name, tensor)
    copy_to_memory(found.values())
    return found


def _check_numbers(name: str, tensor: torch.Tensor) -> None:
    if not tensor.numel():
        raise ValueError(f"there is nothing in {name} (rank 0)")
    if name.endswith(".alpha"):
        if tensor.numel() > 1 or not tensor.float().isfinite().all():
            raise ValueError(f"{name} is no number, but {tensor.numel()}: {tensor.flatten()[:3].tolist()}")
    elif not tensor.is_floating_point():
        # Taken as they are, they would be numbers of another size.
        raise ValueError(f"{name} has whole numbers ({str(tensor.dtype).removeprefix('torch.')}): it is quantized")


def written_metadata(file: Path) -> dict[str, str]:
    """Return what a trainer wrote into the file's header."""
    with safetensors.safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def written_config(file: Path) -> dict[str, Any]:
    """Return PEFT's configuration of the adapter, `<component>.<option>`, if the file's header has one."""
    found: dict[str, Any] = json.loads(written_metadata(file).get("lora_adapter_metadata", "{}"))
    return found


def by_component(pipeline: Any, raw: Tensors) -> dict[str, Tensors]:
    """Return what a file holds for each component of a Stable Diffusion or SDXL pipeline: `<module>.lora_A.weight`, ….

    Kohya's alphas are multiplied in. Raises ValueError with the name of what cannot be applied.
    """
    # How its loader for SDXL is told to map the blocks of the original code.
    options = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "text_encoder_2") else {}
    # It renames tensors and copies none: each is known again by itself. Magnitudes it would leave out, with a warning.
    matrices = {name: tensor for name, tensor in raw.items() if not name.endswith(".dora_scale")}
    renamed = pipeline.lora_state_dict(matrices, **options)[0]
    origins = {id(tensor): name for name, tensor in raw.items()}
    used: set[str] = set()
    found: dict[str, Tensors] = {}
    for component in pipeline._lora_loadable_modules:
        module = getattr(pipeline, component, None)
        prefix = f"{component}."
        part = {
            name.removeprefix(prefix): value
            for name, value in renamed.items()
            if name.startswith(prefix) and not name.endswith(".alpha")
        }
        if not part or module is None:
            continue
        named = peft_names(part, module, is_text=component != "unet")
        used |= {origins[id(tensor)] for tensor in named.values()}
        for name in [name.removesuffix(DOWN) for name in named if name.endswith(DOWN)]:
            used |= _complete(named, name, raw, origins)
        check_fit(named, module, component)
        found[component] = named
    if unused := sorted(raw.keys() - used):
        raise ValueError(no_place(unused))
    return found


def peft_names(part: Tensors, module: Any, *, is_text: bool) -> Tensors:
    """Return a component's tensors by PEFT's names."""
    # Files of PEFT's own have magnitudes as those of a module.
    part = {name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor for name, tensor in part.items()}
    if not is_text:
        return dict(convert_unet_state_dict_to_peft(part))
    # Both spellings may occur in one file; Diffusers would guess one of them, or none, by single names.
    for spelling in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
        part = convert_state_dict_to_peft(part, original_type=spelling)
    if hasattr(module, "text_model"):
        return part
    return {name.removeprefix("text_model."): tensor for name, tensor in part.items()}


def _complete(named: Tensors, name: str, raw: Tensors, origins: Mapping[int, str]) -> set[str]:
    """Add to a module's matrices what kohya's trainer and LyCORIS write beside them; return what was used of the file.

    Diffusers hands alphas over under names that PEFT does not find where modules differ in them.
    """
    origin = origins[id(named[name + DOWN])]
    base = next((origin.removesuffix(down) for down, _ in UPS if origin.endswith(down)), origin)
    alpha, magnitude = raw.get(f"{base}.alpha"), raw.get(f"{base}.dora_scale")
    if alpha is not None and name + UP in named:
        up = named[name + UP]
        named[name + UP] = up.float() * (float(alpha) / len(named[name + DOWN]))
    if magnitude is not None:
        named[name + MAGNITUDE] = magnitude
    return {f"{base}.alpha", f"{base}.dora_scale"} & raw.keys()


def check_fit(named: Tensors, component: Any, place: str) -> None:
    """Check that every tensor has its module, and every module all that it needs; give magnitudes PEFT's shape."""
    modules = dict(component.named_modules())
    with_magnitudes = any(name.endswith(MAGNITUDE) for name in named)
    for name in dict.fromkeys(name.split(".lora_")[0] for name in named):
        module = modules.get(name)
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if weight is None:
            raise ValueError(
                f"it changes {place}.{name}, which this model does not have: it was made for another kind of model"
            )
        down, up = named.get(name + DOWN), named.get(name + UP)
        if down is None or up is None:
            raise ValueError(f"{place}.{name}: one of its two matrices is missing")
        if down.shape[1] != weight.shape[1] or up.shape[0] != weight.shape[0]:
            raise ValueError(
                f"{place}.{name} turns {down.shape[1]} numbers into {up.shape[0]}, in this model {weight.shape[1]} "
                f"into {weight.shape[0]}: it was made for another kind of model"
            )
        if with_magnitudes:
            named[name + MAGNITUDE] = _magnitude(named.get(name + MAGNITUDE), weight, f"{place}.{name}")


def _magnitude(given: torch.Tensor | None, weight: torch.Tensor, place: str) -> torch.Tensor:
    """Return a DoRA's magnitudes as PEFT shapes them: one for each output."""
    if given is None:
        raise ValueError(f"{place}: other modules have a DoRA's magnitudes, this one has none")
    if given.numel() != len(weight) or (given.dim() > 1 and 1 < given.shape[1] != len(weight)):
        raise ValueError(f"{place}: its DoRA magnitudes (dora_scale) are those of inputs, which PEFT cannot apply")
    return given.reshape(-1) if weight.dim() == 2 else given.reshape(1, -1, *[1] * (weight.dim() - 2))
