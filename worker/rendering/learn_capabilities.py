"""Learns from the classes of Diffusers what each pipeline takes, and writes `storage/spec/pipelines.json`.

python -m worker.rendering.learn_capabilities > storage/spec/pipelines.json

Run it after an update of Diffusers; a test fails until then.
"""

import inspect
import json
import sys
from typing import Any

from diffusers.pipelines import auto_pipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from storage.spec.controls import PER_CONTROLNET, Controls
from storage.spec.guidance import guides_by_true_cfg
from worker.rendering.prompts import weighs_prompts

#: Controls of ours whose argument has another name in a pipeline's `__call__`.
_ARGUMENTS = {"control_images": "image"}
_OF_CONTROLNETS = {"control_images", "guess_mode", *PER_CONTROLNET}


def table() -> dict[str, dict[str, list[str]]]:
    """Return the controls of text-to-image pipelines, with and without ControlNet, by class in `model_index.json`."""
    found = {}
    tasks: Any = auto_pipeline.SUPPORTED_TASKS_MAPPINGS
    for name in sorted({pipeline.__name__ for task in tasks for pipeline in task.values()}):
        plain = _for_text(name)
        if plain is None:
            continue
        found[name] = {"controls": controls(plain)}
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


def _for_text(name: str) -> Any:
    return auto_pipeline._get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name, throw_error_if_not_exist=False)


if __name__ == "__main__":
    lines = ",\n".join(f'"{name}": {json.dumps(taken)}' for name, taken in table().items())
    sys.stdout.write(f"{{\n{lines}\n}}\n")
