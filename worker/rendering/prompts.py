"""From prompts to embeddings: plain, weighted by Compel, or given by the caller; those of repeated prompts are cached.

Each prompt is encoded alone, never in a batch: its embeddings, and so its picture, must not depend, not even in the
last bit, on its neighbours or on what is in the cache.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch
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
from storage.spec.prompt_length import readable_fields
from storage.spec.webui_schedules import is_composed
from worker.rendering.call import profile_of_pipeline
from worker.rendering.compel_weights import compel_embeddings
from worker.rendering.embeddings import EmbeddingWords
from worker.rendering.input_cache import InputCache
from worker.rendering.prompt_steps import Embeddings, PromptSteps, composed
from worker.rendering.unread import unread_words
from worker.rendering.webui_weights import encoders_of, weighted_embeddings

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
_CAPACITY = 256
#: Prompts that change between steps: each has up to a hundred times as much.
_COMPOSED_CAPACITY = 8
#: Texts of a few hundred bytes.
_READ_CAPACITY = 4096


def weighs_prompts(pipeline_class: type) -> bool:
    """Tell whether Compel knows the pipeline's text encoders; these pipelines are given embeddings, not prompts."""
    return issubclass(pipeline_class, _SD + _SDXL)


def _tensors(data: bytes) -> Mapping[str, torch.Tensor]:
    """Read a safetensors file. Raises ValueError."""
    try:
        found: Mapping[str, torch.Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    return found


def changes(spec: Spec) -> bool:
    """Tell whether a picture's prompts change between steps, or are put together: only slots can draw it."""
    return spec.prompt_weighting == "webui" and is_composed(spec.prompt, spec.negative_prompt)


def _negative_of(spec: Spec) -> str:
    """Return the negative prompt; without guidance, which does not read it, it must not lengthen the prompt either."""
    return spec.negative_prompt if spec.guidance_scale > 1 else ""


@contextlib.contextmanager
def text_model(encoder: Any) -> Iterator[None]:
    """Have `encoder.text_model`, by which Diffusers skips layers and which Transformers 5 no longer has.

    Inside the context only: by the same attribute Diffusers tells which names a LoRA's tensors have.
    """
    if hasattr(encoder, "text_model") or not hasattr(encoder, "final_layer_norm"):
        yield
        return
    # Not as a submodule: the encoder would be its own child.
    encoder.__dict__["text_model"] = encoder
    try:
        yield
    finally:
        del encoder.__dict__["text_model"]


class Prompts:
    """The text encoders of one pipeline, and a cache of what they returned."""

    def __init__(self, pipeline: Any, inputs: InputCache, words: EmbeddingWords) -> None:
        self._pipeline = pipeline
        self.inputs = inputs
        self.words = words
        self._two_encoders = isinstance(pipeline, _SDXL)
        self._cached: OrderedDict[tuple[object, ...], Embeddings] = OrderedDict()
        self._composed: OrderedDict[tuple[object, ...], PromptSteps] = OrderedDict()
        #: Texts by field that are read to their ends: tokenizers take as long for them as a sampler for its steps.
        self._read_whole: set[tuple[tuple[str, str], ...]] = set()

    def arguments(self, specs: Sequence[Spec]) -> list[dict[str, Any]]:
        """Return the arguments of one pipeline call or several, each with the indices of its specifications (`at`).

        Pictures of one call have embeddings of one length: a longer neighbour would lengthen, and so change, them.

        Raises:
            RenderFailed: given embeddings do not fit the model.
        """
        if not weighs_prompts(type(self._pipeline)):
            if any(spec.prompt_weighting for spec in specs):
                raise RenderFailed(f"prompt_weighting: {type(self._pipeline).__name__} does not support it")
            return [
                {
                    "at": at,
                    "prompt": [specs[index].prompt for index in at],
                    "negative_prompt": self._negatives([specs[index] for index in at]),
                }
                for at in self._calls(specs)
            ]
        by_length: dict[int, list[int]] = {}
        encoded = [self.encoded(spec) for spec in specs]
        for index, embeddings in enumerate(encoded):
            by_length.setdefault(embeddings["prompt_embeds"].shape[1], []).append(index)
        return [
            {"at": at} | {name: torch.cat([encoded[index][name] for index in at]) for name in encoded[at[0]]}
            for at in by_length.values()
        ]

    def _calls(self, specs: Sequence[Spec]) -> list[list[int]]:
        """Return which pictures go together through a pipeline that encodes prompts itself."""
        profile = profile_of_pipeline(self._pipeline)
        if profile.neighbours == "lengthen negatives":
            negatives = [[index] for index, spec in enumerate(specs) if spec.negative_prompt]
            without = [index for index, spec in enumerate(specs) if not spec.negative_prompt]
            return [*negatives, *([without] if without else [])]
        if profile.neighbours != "ignored":
            return [[index] for index in range(len(specs))]
        if profile.no_negative == "zeros":
            with_one = [index for index, spec in enumerate(specs) if spec.negative_prompt]
            without = [index for index, spec in enumerate(specs) if not spec.negative_prompt]
            return [at for at in (with_one, without) if at]
        return [list(range(len(specs)))]

    def _negatives(self, specs: Sequence[Spec]) -> list[str] | None:
        """Return the negative prompts of pictures that go together; None where that is not the same as empty ones."""
        found = [spec.negative_prompt for spec in specs]
        return None if profile_of_pipeline(self._pipeline).no_negative == "zeros" and not any(found) else found

    def unread(self, spec: Spec, model: str) -> tuple[str, ...]:
        """Return remarks on the words that are not read, as far as the pipeline's tokenizers tell."""
        own_words = self.words if weighs_prompts(type(self._pipeline)) else None
        fields = readable_fields(spec, type(self._pipeline).__name__)
        texts = tuple((field, own_words.put_into(said, spec.model) if own_words else said) for field, said in fields)
        if texts in self._read_whole:
            return ()
        found = tuple(one.words for one in unread_words(self._pipeline, spec, model, own_words))
        if not found:
            if len(self._read_whole) >= _READ_CAPACITY:
                self._read_whole.clear()
            self._read_whole.add(texts)
        return found

    def embeddings(self, specs: Sequence[Spec]) -> dict[str, Any]:
        """Return what a recipe says of the textual inversions that are words of these pictures' prompts."""
        if not weighs_prompts(type(self._pipeline)):
            return {}
        texts = [text for spec in specs for text in (spec.prompt, spec.negative_prompt)]
        return self.words.recipe(texts, specs[0].model)

    def words_alone(self, spec: Spec) -> tuple[str, ...]:
        """Return remarks on words that are read as such although the registry has an embedding of that name."""
        texts = {"prompt": spec.prompt, "negative_prompt": spec.negative_prompt}
        if weighs_prompts(type(self._pipeline)):
            return tuple(self.words.remarks(texts, spec.model))
        return tuple(
            f"{field}: the embedding {alias} is read as words: {type(self._pipeline).__name__} takes none"
            for field, text in texts.items()
            for alias in self.words.named_in(text, spec.model)
        )

    def forget(self) -> None:
        """Empty the cache: the text encoders have another precision now."""
        self._cached.clear()
        self._composed.clear()

    def by_step(self, spec: Spec, steps: int) -> PromptSteps:
        """Return one picture's embeddings at each call, with those of its negative prompt if it is guided.

        Args:
            steps: how many the web UI would count: two for each of a sampler that calls the model twice.

        Raises:
            RenderFailed: given embeddings do not fit the model.
        """
        if not changes(spec):
            return PromptSteps.unchanging(self.encoded(spec))
        prompt = self.words.put_into(spec.prompt, spec.model)
        negative = self.words.put_into(spec.negative_prompt, spec.model) if spec.guidance_scale > 1 else None
        key = (torch.get_num_threads(), prompt, negative, steps, spec.clip_skip, *self._adapters(spec))
        if key not in self._composed:
            self._composed[key] = composed(
                encoders_of(self._pipeline, clip_skip=spec.clip_skip, two_encoders=self._two_encoders),
                prompt,
                negative,
                steps=steps,
                dtype=self._pipeline.unet.dtype,
                empty_is_zeros=self._empty_is_zeros(),
            )
        self._composed.move_to_end(key)
        while len(self._composed) > _COMPOSED_CAPACITY:
            self._composed.popitem(last=False)
        return self._composed[key]

    def encoded(self, spec: Spec) -> Embeddings:
        """Return one picture's embeddings, those of its negative prompt too if it is guided.

        Raises:
            RenderFailed: given embeddings do not fit the model.
        """
        if spec.prompt_embeds is not None:
            return self._given(spec)
        fields = {name: self.words.put_into(getattr(spec, name), spec.model) for name in ("prompt", "negative_prompt")}
        spec = spec.model_copy(update=fields)
        if spec.prompt_weighting == "compel":
            return self._cached_or(
                ("weighted", spec.prompt, spec.negative_prompt, *self._adapters(spec)), lambda: self._weighted(spec)
            )
        if spec.prompt_weighting == "webui":
            return self._cached_or(
                ("webui", spec.prompt, _negative_of(spec), spec.clip_skip, *self._adapters(spec)),
                lambda: self._weighted_as_in_the_web_ui(spec),
            )
        if spec.long_prompts == "chunk" and self._is_cut(spec):
            return self._cached_or(
                ("chunks", spec.prompt, _negative_of(spec), spec.clip_skip, *self._adapters(spec)),
                lambda: self._weighted_as_in_the_web_ui(spec, letters=True),
            )
        embeddings = self._plain(spec.prompt, spec)
        if spec.guidance_scale > 1:
            embeddings |= {f"negative_{name}": value for name, value in self._negative(spec).items()}
        return embeddings

    def _cached_or(self, asked: tuple[object, ...], encode: Any) -> dict[str, torch.Tensor]:
        # On a CPU, the last bits depend on the number of threads.
        key = (torch.get_num_threads(), *asked)
        if key not in self._cached:
            self._cached[key] = encode()
        self._cached.move_to_end(key)
        while len(self._cached) > _CAPACITY:
            self._cached.popitem(last=False)
        return dict(self._cached[key])

    def _adapters(self, spec: Spec) -> tuple[object, ...]:
        # LoRAs may change the text encoder too.
        return tuple(sorted((spec.loras or {}).items()))

    # -- plain -------------------------------------------------------------------------------------------------

    def _plain(self, text: str, spec: Spec) -> dict[str, torch.Tensor]:
        def encode() -> dict[str, torch.Tensor]:
            with text_model(self._pipeline.text_encoder):
                found = self._pipeline.encode_prompt(
                    prompt=text,
                    device=self._pipeline._execution_device,
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=False,
                    clip_skip=spec.clip_skip,
                )
            names = ("prompt_embeds", None, "pooled_prompt_embeds", None) if self._two_encoders else ("prompt_embeds",)
            return {name: value for name, value in zip(names, found, strict=False) if name}

        return self._cached_or((text, spec.clip_skip, *self._adapters(spec)), encode)

    def _negative(self, spec: Spec) -> dict[str, torch.Tensor]:
        if not spec.negative_prompt and self._empty_is_zeros():
            return {name: torch.zeros_like(value) for name, value in self._plain("", spec).items()}
        return self._plain(spec.negative_prompt, spec)

    def _empty_is_zeros(self) -> bool:
        """Tell whether no prompt means zeros, with which SDXL was trained."""
        return self._two_encoders and bool(self._pipeline.config.force_zeros_for_empty_prompt)

    # -- weighted ----------------------------------------------------------------------------------------------

    def _weighted(self, spec: Spec) -> dict[str, torch.Tensor]:
        """Encode prompt and negative prompt together: they must be equally long, in chunks of 77 tokens."""
        try:
            embeddings = compel_embeddings(
                self._pipeline, (spec.prompt, spec.negative_prompt), two_encoders=self._two_encoders
            )
        except ValueError as error:
            raise RenderFailed(f"prompt: {error}") from error
        return self._finished(spec, embeddings)

    def _is_cut(self, spec: Spec) -> bool:
        """Tell whether a text encoder would not read a picture's prompts to their end."""
        tokenizers = [self._pipeline.tokenizer]
        if self._two_encoders:
            tokenizers.append(self._pipeline.tokenizer_2)
        return any(
            len(tokenizer(text, verbose=False).input_ids) > tokenizer.model_max_length
            for text in (spec.prompt, _negative_of(spec))
            for tokenizer in tokenizers
        )

    def _weighted_as_in_the_web_ui(self, spec: Spec, *, letters: bool = False) -> dict[str, torch.Tensor]:
        embeddings = weighted_embeddings(
            self._pipeline,
            (spec.prompt, _negative_of(spec)),
            clip_skip=spec.clip_skip,
            two_encoders=self._two_encoders,
            letters=letters,
        )
        return self._finished(spec, embeddings)

    def _finished(self, spec: Spec, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a weighted prompt's embeddings in the model's precision, zeros where no negative prompt means them."""
        if not spec.negative_prompt and self._empty_is_zeros():
            embeddings |= {
                name: torch.zeros_like(value) for name, value in embeddings.items() if name.startswith("negative_")
            }
        return {name: value.to(self._pipeline.unet.dtype) for name, value in embeddings.items()}

    # -- given by the caller -----------------------------------------------------------------------------------------

    def _given(self, spec: Spec) -> Embeddings:
        needed = ["prompt_embeds"] + ["pooled_prompt_embeds"] * self._two_encoders
        if spec.guidance_scale > 1:
            needed += [f"negative_{name}" for name in needed]
        tensors = self.inputs.get(str(spec.prompt_embeds), _tensors)
        embeddings = {}
        for name in needed:
            if name not in tensors:
                if name.startswith("negative_") and "negative_prompt_embeds" not in tensors:
                    raise RenderFailed(f"prompt_embeds: with guidance_scale above 1, the file must contain {name} too")
                raise RenderFailed(f"prompt_embeds: the file does not contain {name}, which this model needs")
            embeddings[name] = self._fitting(name, tensors[name])
        lengths = {name: value.shape[1] for name, value in embeddings.items() if value.dim() == 3}
        if len(set(lengths.values())) > 1:
            raise RenderFailed(f"prompt_embeds: lengths differ: {lengths}")
        return embeddings

    def _fitting(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor with a batch of one, in the model's precision, on its device."""
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
