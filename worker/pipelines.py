"""Diffusers pipelines: loaded once through `AutoPipelineForText2Image`, then called once per batch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoPipelineForText2Image
from PIL import Image

from storage.errors import ModelUnavailable, RenderFailed
from storage.registry import DiffusersModel, Model
from storage.spec import Spec
from worker.devices import Device
from worker.renderers import Abandoned, Rendered, Renderer, hardware_name
from worker.samplers import make_scheduler

#: The models that come with the farm, each a folder in Diffusers layout.
SHIPPED = Path(__file__).parent / "models"

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


class PipelineRenderer:
    """One pipeline on one device."""

    def __init__(self, pipeline: Any, *, recipe: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._recipe = recipe
        self._own_scheduler = pipeline.scheduler

    @torch.inference_mode()
    def render(self, specs: Sequence[Spec], on_step: Callable[[], None]) -> Rendered:
        shared = specs[0]

        def after_step(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step()
            return tensors

        self._pipeline.scheduler = make_scheduler(shared.sampler, self._own_scheduler)
        try:
            images = self._pipeline(
                prompt=[spec.prompt for spec in specs],
                negative_prompt=[spec.negative_prompt for spec in specs],
                # Made on the CPU, so that a seed means the same noise on every device.
                generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in specs],
                width=shared.width,
                height=shared.height,
                num_inference_steps=shared.num_inference_steps,
                guidance_scale=shared.guidance_scale,
                output_type="pt",
                callback_on_step_end=after_step,
            ).images
        except Abandoned:
            raise
        except Exception as error:
            # A pipeline can raise anything; to the farm it all means that these pictures cannot be made so.
            raise RenderFailed(f"{type(error).__name__}: {error}") from error
        return Rendered(
            pictures=_to_pictures(images),
            recipe={**self._recipe, "scheduler": type(self._pipeline.scheduler).__name__},
        )


def _to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """Pictures of a (batch, channel, height, width) tensor in 0…1, made bytes on the device: a quarter to copy."""
    rounded = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture) for picture in rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def load(model: Model, device: Device) -> Renderer:
    """Raises ModelUnavailable if the weights cannot be found or loaded."""
    if not isinstance(model, DiffusersModel):
        raise TypeError(f"{model.alias} is not a diffusers model")
    dtype = _dtype(model, device)
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            _source(model),
            dtype=dtype,
            variant=model.variant,
            revision=model.revision,
            # Pickled weights can carry code.
            use_safetensors=True,
        )
        pipeline.to("cuda" if device.kind == "cuda" else device.kind)
    except Exception as error:
        # Whatever a loader raises, the model is not there; the message says why.
        raise ModelUnavailable(f"model {model.alias} ({model.source}) cannot be loaded: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return PipelineRenderer(
        pipeline,
        recipe={
            "kind": model.kind,
            "pipeline": type(pipeline).__name__,
            "source": model.source,
            "revision": model.revision,
            "variant": model.variant,
            "dtype": str(dtype).removeprefix("torch."),
            "device": hardware_name(device),
            "threads": torch.get_num_threads() if device.kind == "cpu" else None,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    )


def cuda_name() -> str:
    """What the driver calls the device that this process is pinned to."""
    return str(torch.cuda.get_device_name())


def _source(model: DiffusersModel) -> str:
    """Where the weights are: a hub id or a folder."""
    origin, _, name = model.source.partition(":")
    return str(SHIPPED / name) if origin == "shipped" else model.source


def _dtype(model: DiffusersModel, device: Device) -> torch.dtype:
    if model.dtype != "auto":
        dtype: torch.dtype = getattr(torch, model.dtype)
        return dtype
    # Half precision is slow or missing on CPUs.
    return torch.float32 if device.kind == "cpu" else torch.float16
