"""LoRA files for pipelines other than Stable Diffusion's and SDXL's: converted by Diffusers, and every tensor followed.

Their converters rename, split, join and leave out. Which tensors of the file are in what comes out is read from the
graph that PyTorch keeps for gradients.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from storage.spec.lora_header import UPS, listed, no_place
from worker.rendering.lora_files import MAGNITUDE, UP, Tensors, check_fit, peft_names

_ALPHA = ".alpha"
_DORA = ".dora_scale"


def converted(pipeline: Any, raw: Tensors) -> dict[str, Tensors]:
    """Return what a file holds for each component of a pipeline, by PEFT's names.

    Alphas are multiplied in. Raises ValueError with the name of what cannot be applied.
    """
    with torch.inference_mode(False), torch.enable_grad():
        given = _without_alphas(raw, tuple(f"{component}." for component in pipeline._lora_loadable_modules))
        followed = {
            name: tensor.detach().clone().requires_grad_(tensor.is_floating_point() and not name.endswith(_ALPHA))
            for name, tensor in given.items()
        }
        # Magnitudes it would leave out, with a warning; alphas it may need, to know the format.
        passed = {name: tensor for name, tensor in followed.items() if not name.endswith(_DORA)}
        try:
            renamed = pipeline.lora_state_dict(passed)
        except (ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise ValueError(f"Diffusers cannot read it: {error}") from error
        renamed = renamed[0] if isinstance(renamed, tuple) else renamed
        origins = {id(tensor): name for name, tensor in followed.items()}
        made = {name: tensor for name, tensor in renamed.items() if not name.endswith(_ALPHA)}
        used = {name for name in raw if name.endswith(_ALPHA)}
        found: dict[str, Tensors] = {}
        for component in pipeline._lora_loadable_modules:
            module, prefix = getattr(pipeline, component, None), f"{component}."
            part = {name.removeprefix(prefix): value for name, value in made.items() if name.startswith(prefix)}
            if not part or module is None:
                continue
            named = peft_names(part, module, is_text=component.startswith("text_encoder"))
            for name in list(named):
                leaves = _leaves(named[name], origins)
                used |= leaves
                if name.endswith(UP):
                    used |= _add_magnitude(named, name, leaves, raw)
            found[component] = {name: tensor.detach() for name, tensor in named.items()}
    if unused := sorted(raw.keys() - used):
        raise ValueError(no_place(unused))
    for component, named in found.items():
        if not any(".lokr_" in name for name in named):
            check_fit(named, getattr(pipeline, component), component)
    return found


def _without_alphas(raw: Tensors, components: tuple[str, ...]) -> Tensors:
    """Multiply alphas into the second matrices, and make them equal to the ranks, which changes nothing any more.

    By alphas Diffusers knows some formats. Not those that begin with a component's name, which it would then repeat.
    Raises ValueError for an alpha of no matrices.
    """
    found = dict(raw)
    for name in [name for name in raw if name.endswith(_ALPHA)]:
        base = name.removesuffix(_ALPHA)
        if any(other.startswith(f"{base}.lokr_") for other in raw):
            continue
        pairs = [(f"{base}{down}", f"{base}{up}") for down, up in UPS if f"{base}{up}" in raw]
        if not pairs or pairs[0][0] not in raw:
            raise ValueError(f"it holds {name} without its two matrices")
        down, up = pairs[0]
        rank = len(raw[down])
        found[up] = raw[up].float() * (float(raw[name]) / rank)
        found[name] = torch.tensor(float(rank), dtype=torch.float32)
        if name.startswith(components):
            del found[name]
    return found


def _leaves(tensor: torch.Tensor, origins: Mapping[int, str]) -> set[str]:
    """Return the names of the file's tensors from which this one was made."""
    if id(tensor) in origins:
        return {origins[id(tensor)]}
    found, seen, waiting = set(), set(), [tensor.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and id(node.variable) in origins:
            found.add(origins[id(node.variable)])
        waiting += [following for following, _ in node.next_functions]
    return found


def _add_magnitude(named: Tensors, name: str, leaves: Iterable[str], raw: Tensors) -> set[str]:
    """Give a module the magnitudes that its matrices have in the file, if it is that module; return what was used."""
    [leaf, *more] = sorted(leaves) or [""]
    for _, up in UPS:
        scale = f"{leaf.removesuffix(up)}{_DORA}"
        if leaf.endswith(up) and scale in raw and not more and named[name].shape == raw[leaf].shape:
            named[f"{name.removesuffix(UP)}{MAGNITUDE}"] = raw[scale]
            return {scale}
    return set()


def check_modules(named: Tensors, component: Any, place: str) -> None:
    """Raise ValueError if a LoKr changes what the component does not have."""
    modules = dict(component.named_modules())
    if missing := sorted({name.split(".lokr_")[0] for name in named} - modules.keys()):
        raise ValueError(f"it changes {place}.{listed(missing)}, which this model does not have")
