"""Names of LoRA files: which tensors belong together, and which layer of a pipeline they are for.

Kohya's trainer and LyCORIS write a layer's path with underscores for dots, after a prefix for the component; trained on
the original code of SDXL, with its names of blocks. A path is looked up among those that the model has, so that it
means one layer or none, whatever kinds of layers a trainer thinks of next.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: How trainers call the parts of a layer's change → how they are called here (`lora_changes`).
_PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_B.bias": "bias",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "dora_scale": "magnitude",
    "alpha": "alpha",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}
_PREFIXES = {
    "lora_unet_": "unet",
    "lycoris_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    # Whose own layers are not called so: LyCORIS by itself, as SimpleTuner has it.
    "lycoris_": "unet",
    # OneTrainer's, with dots.
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "unet.": "unet",
}
_PEFT = "base_model.model."
#: Inside a block of the original code → inside one of Diffusers.
_INNER = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_(.+)")
_MIDDLE = re.compile(r"middle_block_(\d)_(.+)")


def split(name: str) -> tuple[str, str] | None:
    """Return the layer's part of a tensor's name, and what of the layer's change it is; None: no such part."""
    for end, part in _PARTS.items():
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}"), part
    return None


class Layers:
    """The layers of a pipeline's components, to be found by the names of trainers."""

    def __init__(self, pipeline: Any) -> None:
        self._components = {
            name: module
            for name in pipeline._lora_loadable_modules
            if (module := getattr(pipeline, name, None)) is not None
        }
        self._per_block = 1 + getattr(getattr(pipeline, "unet", None), "config", {}).get("layers_per_block", 1)
        self._paths = {name: dict(_spelled(module)) for name, module in self._components.items()}

    def find(self, name: str) -> tuple[str, str] | None:
        """Return component and path of the layer that a file names; None: there is none, or it is named otherwise."""
        for prefix, component in _PREFIXES.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix).replace(".", "_")
                paths = self._paths.get(component, {})
                found = paths.get(rest) or paths.get(self._of_original_code(rest))
                return (component, found) if found is not None else None
        component, _, path = name.partition(".")
        if component in self._paths:
            found = self._paths[component].get(path.replace(".", "_"))
            return (component, found) if found is not None else None
        # What PEFT saves by itself does not say of which component it is.
        rest = name.removeprefix(_PEFT).replace(".", "_")
        places = [(component, paths[rest]) for component, paths in self._paths.items() if rest in paths]
        return places[0] if len(places) == 1 else None

    def layer(self, component: str, path: str) -> Any:
        return self._components[component].get_submodule(path)

    def _of_original_code(self, rest: str) -> str:
        """Return a path of Diffusers' for one of the original code's, both with underscores."""
        if rest in _OUTSIDE:
            return _OUTSIDE[rest]
        if match := _MIDDLE.fullmatch(rest):
            kind = "attentions_0" if match[1] == "1" else f"resnets_{int(match[1]) // 2}"
            return f"mid_block_{kind}_{_INNER.get(match[2], match[2])}"
        match = _BLOCK.fullmatch(rest)
        if match is None:
            return rest
        end = _INNER.get(match[4], match[4])
        # The first of the blocks of the way down is `conv_in`.
        block, layer = divmod(int(match[2]) - (match[1] == "input"), self._per_block)
        if end == "op":
            return f"down_blocks_{block}_downsamplers_0_conv"
        if end == "conv":
            return f"up_blocks_{block}_upsamplers_0_conv"
        kind = "resnets" if match[3] == "0" else "attentions"
        return f"{'down' if match[1] == 'input' else 'up'}_blocks_{block}_{kind}_{layer}_{end}"


def _spelled(component: Any) -> Iterator[tuple[str, str]]:
    """Yield each layer's path with underscores, and as it is; a text encoder's also with Transformers 4's wrapper."""
    for path, layer in component.named_modules():
        if getattr(layer, "weight", None) is None:
            continue
        spelled = path.replace(".", "_")
        yield spelled, path
        if not path.startswith("text_model."):
            yield f"text_model_{spelled}", path


def by_layer(raw: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return, for each layer that a file names, what parts of its change are there: part → the tensor's name."""
    found: dict[str, dict[str, str]] = {}
    for name in raw:
        said = split(name)
        if said is not None:
            found.setdefault(said[0], {})[said[1]] = name
    return found
