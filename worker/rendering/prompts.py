"""From prompts to embeddings: plain, weighted by Compel, or brought along; those of repeated prompts are kept.

Each prompt is encoded alone, never in a batch: its embeddings, and so its picture, must not depend to the last bit on
which neighbours it has or on what is in the cache.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch
from compel import CompelForSD, CompelForSDXL
from diffusers import (
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
)

from storage.errors import RenderFailed
from storage.spec.picture import Spec
from worker.rendering.input_cache import InputCache

#: A picture's embeddings by the pipeline's names for them, each with a batch of one.
Embeddings = Mapping[str, torch.Tensor]

_SD = (
    StableDiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionControlNetPAGPipeline,
)
_SDXL = (
    StableDiffusionXLPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLControlNetPAGPipeline,
)
#: SDXL's embeddings of a prompt are 0.3 MB in half precision.
_KEPT = 256


def weighs_prompts(pipeline_class: type) -> bool:
    """Whether Compel knows the pipeline's text encoders; the same pipelines are given embeddings, not prompts."""
    return issubclass(pipeline_class, _SD + _SDXL)


def _tensors(data: bytes) -> Mapping[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    try:
        found: Mapping[str, torch.Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    return found


def _name_text_model(pipeline: Any) -> None:
    """Diffusers 0.42 skips layers by way of `text_encoder.text_model`, which Transformers 5 does not have any more."""
    encoder = getattr(pipeline, "text_encoder", None)
    if encoder is not None and hasattr(encoder, "final_layer_norm") and not hasattr(encoder, "text_model"):
        # Not as a submodule: it would be its own child.
        encoder.__dict__["text_model"] = encoder


class Prompts:
    """The text encoders of one pipeline, and what they last said."""

    def __init__(self, pipeline: Any, inputs: InputCache) -> None:
        self._pipeline = pipeline
        self._inputs = inputs
        _name_text_model(pipeline)
        self._two_encoders = isinstance(pipeline, _SDXL)
        self._kept: OrderedDict[tuple[object, ...], Embeddings] = OrderedDict()

    def arguments(self, specs: Sequence[Spec]) -> list[dict[str, Any]]:
        """The pipeline's arguments for its calls, and which specifications each is of (`at`, indices into `specs`).

        Pictures of one call have embeddings of one length: a longer neighbour must not lengthen, and so change, them.

        Raises:
            RenderFailed: embeddings that were brought along do not fit the model.
        """
        if not weighs_prompts(type(self._pipeline)):
            return [
                {
                    "at": list(range(len(specs))),
                    "prompt": [spec.prompt for spec in specs],
                    "negative_prompt": [spec.negative_prompt for spec in specs],
                }
            ]
        by_length: dict[int, list[int]] = {}
        encoded = [self._encoded(spec) for spec in specs]
        for index, embeddings in enumerate(encoded):
            by_length.setdefault(embeddings["prompt_embeds"].shape[1], []).append(index)
        return [
            {"at": at} | {name: torch.cat([encoded[index][name] for index in at]) for name in encoded[at[0]]}
            for at in by_length.values()
        ]

    def forget(self) -> None:
        """Encode anew from now on: the text encoders have another precision."""
        self._kept.clear()

    def _encoded(self, spec: Spec) -> Embeddings:
        if spec.prompt_embeds is not None:
            return self._brought(spec)
        if spec.prompt_weighting == "compel":
            return self._keep(
                ("weighted", spec.prompt, spec.negative_prompt, *self._adapters(spec)), lambda: self._weighted(spec)
            )
        embeddings = self._plain(spec.prompt, spec)
        if spec.guidance_scale > 1:
            embeddings |= {f"negative_{name}": value for name, value in self._negative(spec).items()}
        return embeddings

    def _keep(self, key: tuple[object, ...], encode: Any) -> dict[str, torch.Tensor]:
        if key not in self._kept:
            self._kept[key] = encode()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return dict(self._kept[key])

    def _adapters(self, spec: Spec) -> tuple[object, ...]:
        # LoRAs may change the text encoder too.
        return tuple(sorted((spec.loras or {}).items()))

    # -- plain -------------------------------------------------------------------------------------------------

    def _plain(self, text: str, spec: Spec) -> dict[str, torch.Tensor]:
        def encode() -> dict[str, torch.Tensor]:
            found = self._pipeline.encode_prompt(
                prompt=text,
                device=self._pipeline._execution_device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
                clip_skip=spec.clip_skip,
            )
            names = ("prompt_embeds", None, "pooled_prompt_embeds", None) if self._two_encoders else ("prompt_embeds",)
            return {name: value for name, value in zip(names, found, strict=False) if name}

        return self._keep((text, spec.clip_skip, *self._adapters(spec)), encode)

    def _negative(self, spec: Spec) -> dict[str, torch.Tensor]:
        if not spec.negative_prompt and self._silence_is_zero():
            return {name: torch.zeros_like(value) for name, value in self._plain("", spec).items()}
        return self._plain(spec.negative_prompt, spec)

    def _silence_is_zero(self) -> bool:
        """SDXL was trained with zeros where there is no prompt."""
        return self._two_encoders and bool(self._pipeline.config.force_zeros_for_empty_prompt)

    # -- weighted ----------------------------------------------------------------------------------------------

    def _weighted(self, spec: Spec) -> dict[str, torch.Tensor]:
        """Prompt and negative prompt together: Compel makes them equally long, in chunks of 77 tokens."""
        compel = (CompelForSDXL if self._two_encoders else CompelForSD)(
            self._pipeline, device=self._pipeline._execution_device
        )
        try:
            found = compel(spec.prompt, negative_prompt=spec.negative_prompt)
        except Exception as error:
            # Compel's parser raises many things, all of them about the prompt.
            raise RenderFailed(f"prompt: Compel cannot weigh it: {error}") from error
        embeddings = {"prompt_embeds": found.embeds, "negative_prompt_embeds": found.negative_embeds}
        if self._two_encoders:
            embeddings |= {
                "pooled_prompt_embeds": found.pooled_embeds,
                "negative_pooled_prompt_embeds": found.negative_pooled_embeds,
            }
        if not spec.negative_prompt and self._silence_is_zero():
            embeddings |= {
                name: torch.zeros_like(value) for name, value in embeddings.items() if name.startswith("negative_")
            }
        return {name: value.to(self._pipeline.unet.dtype) for name, value in embeddings.items()}

    # -- brought along -----------------------------------------------------------------------------------------

    def _brought(self, spec: Spec) -> Embeddings:
        needed = ["prompt_embeds"] + ["pooled_prompt_embeds"] * self._two_encoders
        if spec.guidance_scale > 1:
            needed += [f"negative_{name}" for name in needed]
        tensors = self._inputs.get(str(spec.prompt_embeds), _tensors)
        embeddings = {}
        for name in needed:
            if name not in tensors:
                if name.startswith("negative_") and "negative_prompt_embeds" not in tensors:
                    raise RenderFailed(f"prompt_embeds: with guidance above 1 the file needs {name} too")
                raise RenderFailed(f"prompt_embeds: the file has no {name}, which this model needs")
            embeddings[name] = self._fitting(name, tensors[name])
        lengths = {name: value.shape[1] for name, value in embeddings.items() if value.dim() == 3}
        if len(set(lengths.values())) > 1:
            raise RenderFailed(f"prompt_embeds: of different lengths: {lengths}")
        return embeddings

    def _fitting(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """With a batch of one, in the model's precision."""
        pooled = "pooled" in name
        width = (
            self._pipeline.text_encoder_2.config.projection_dim
            if pooled
            else self._pipeline.unet.config.cross_attention_dim
        )
        expected = (1, width) if pooled else (1, None, width)
        whole = tensor if tensor.dim() == len(expected) else tensor[None]
        if len(whole.shape) != len(expected) or any(
            size is not None and size != found for size, found in zip(expected, whole.shape, strict=True)
        ):
            shown = "×".join("n" if size is None else str(size) for size in expected)
            raise RenderFailed(f"prompt_embeds: {name} is {'×'.join(map(str, tensor.shape))}, the model takes {shown}")
        return whole.to(device=self._pipeline._execution_device, dtype=self._pipeline.unet.dtype)
