"""Learns from the classes of Diffusers what each pipeline takes, and writes `storage/spec/pipelines.json`.

python -m worker.rendering.learn_capabilities > storage/spec/pipelines.json

Run it after an update of Diffusers; a test fails until then.
"""

import inspect
import json
import re
import sys
from typing import Any

import diffusers
from diffusers.pipelines import auto_pipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from storage.spec.controls import PER_CONTROLNET, Controls
from storage.spec.guidance import guides_by_true_cfg
from worker.rendering.prompts import weighs_prompts

#: Controls of ours whose argument has another name in a pipeline's `__call__`.
_ARGUMENTS = {"control_images": "image"}
#: Classes for text to image that `AutoPipelineForText2Image` does not know; `profiles.toml` says how they are opened.
OTHERS = ("ErnieImagePipeline",)
#: Arguments whose defaults are learned: how often, how strongly, how large, how long.
_DEFAULTS = (
    *("num_inference_steps", "guidance_scale", "true_cfg_scale", "width", "height", "max_sequence_length"),
    *("pag_scale", "cfg_normalization", "cfg_truncation", "cfg_trunc_ratio"),
)
#: Arguments that switch on what makes another prompt or another size of the one that was asked for.
_SWITCHES = re.compile("binning|clean|rewrite|upsampling$|use_pe|resize")
_OF_CONTROLNETS = {"control_images", "guess_mode", *PER_CONTROLNET}


def table() -> dict[str, dict[str, Any]]:
    """Return what text-to-image pipelines take, by the class in `model_index.json`.

    Of each its controls, with and without ControlNet, defaults of its arguments, and switches that rewrite.
    """
    found: dict[str, dict[str, Any]] = {}
    tasks: Any = auto_pipeline.SUPPORTED_TASKS_MAPPINGS
    for name in sorted({pipeline.__name__ for task in tasks for pipeline in task.values()} | set(OTHERS)):
        plain = getattr(diffusers, name) if name in OTHERS else _for_text(name)
        if plain is None:
            continue
        found[name] = {"controls": controls(plain)} | _arguments(plain)
        if "ControlNet" not in plain.__name__:
            controlled = _for_text(name.replace("Pipeline", "ControlNetPipeline"))
            if controlled is not None:
                found[name]["with_controlnet"] = controls(controlled)
    return found


def controls(pipeline: Any) -> list[str]:
    """Return the controls (and `negative_prompt`, `sampler`) that a pipeline class takes in the worker's form."""
    arguments = inspect.signature(pipeline.__call__).parameters
    own = {"negative_prompt", *Controls.model_fields} - {"prompt_weighting", "loras"}
    taken = {name for name in own if _ARGUMENTS.get(name, name) in arguments}
    if "controlnet" not in inspect.signature(pipeline.__init__).parameters:
        taken -= _OF_CONTROLNETS
    # Without guidance that has a scale of its own, which is off here, these pipelines read no negative prompt.
    scale = arguments.get("true_cfg_scale")
    if scale is not None and scale.default <= 1 and not guides_by_true_cfg(pipeline.__name__):
        taken.discard("negative_prompt")
    if not weighs_prompts(pipeline):
        # Others take embeddings and images too, but each in a form of its own, which the worker does not know.
        taken -= {"prompt_embeds", *_OF_CONTROLNETS}
    if "KarrasDiffusionSchedulers" in str(inspect.signature(pipeline.__init__).parameters.get("scheduler")):
        taken.add("sampler")
    if weighs_prompts(pipeline):
        taken.add("prompt_weighting")
    if hasattr(pipeline, "load_lora_weights"):
        taken.add("loras")
    return sorted(taken)


def _arguments(pipeline: Any) -> dict[str, Any]:
    """Return the defaults of a call that say something, and its switches with theirs."""
    arguments = inspect.signature(pipeline.__call__).parameters
    defaults = {
        name: arguments[name].default
        for name in _DEFAULTS
        if name in arguments and arguments[name].default not in (None, inspect.Parameter.empty)
    }
    switches = {
        name: argument.default
        for name, argument in arguments.items()
        if _SWITCHES.search(name) and isinstance(argument.default, bool)
    }
    return {"defaults": defaults} | ({"switches": switches} if switches else {})


def _for_text(name: str) -> Any:
    return auto_pipeline._get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name, throw_error_if_not_exist=False)


if __name__ == "__main__":
    lines = ",\n".join(f'"{name}": {json.dumps(taken)}' for name, taken in table().items())
    sys.stdout.write(f"{{\n{lines}\n}}\n")
