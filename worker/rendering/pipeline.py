"""One Diffusers pipeline on one device, called once per batch."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from storage.errors import BadSpecification, DeviceBroken, RenderFailed
from storage.rules.faults import Fault
from storage.spec.controls import PER_CONTROLNET
from storage.spec.guidance import guidance_remarks
from storage.spec.model_states import FileStates
from storage.spec.models import DiffusersModel
from storage.spec.picture import Spec
from storage.spec.prompt_length import fails_on_long_prompts
from storage.spec.samplers import check_clip_skip, check_sampler
from storage.spec.slots import of_own_loop
from worker.rendering.backend import Abandoned, RenderResult, SlotLoop, SmallPictures
from worker.rendering.call import call_recipe, family_arguments
from worker.rendering.embeddings import EmbeddingWords
from worker.rendering.kandinsky import image_embeddings
from worker.rendering.loras import LoraAdapters, UNetAdapters
from worker.rendering.pictures import read_image, to_pictures
from worker.rendering.previews import previewer_of
from worker.rendering.prompts import Prompts, changes, text_model, weighs_prompts
from worker.rendering.row_check import has_slots, rows_keep_to_themselves
from worker.rendering.safety import SafetyChecker
from worker.rendering.samplers import make_scheduler, sampler_recipe, spaced_as_distilled
from worker.rendering.slot import SlotParts
from worker.rendering.slot_sampling import FreshSchedulers
from worker.rendering.slots import DiffusersSlots
from worker.rendering.step_listener import Looks, StepListener
from worker.rendering.torch_faults import as_fault
from worker.rendering.tuning import attention, has_hooks, release_memory, tf32

#: Controls that a pipeline's call takes under the same name, one value for the whole batch.
_PASSED_ON = ("eta", "clip_skip", "guess_mode", "original_size", "crops_coords_top_left", "target_size")

_BAD = Fault.BAD_PICTURE
_UNKNOWN = "not tried yet"

log = logging.getLogger(__name__)


class LoadedPipeline:
    """A pipeline as `worker.rendering.backend.LoadedModel`: one pipeline call per batch."""

    def __init__(
        self,
        pipeline: Any,
        model: DiffusersModel,
        *,
        prompts: Prompts,
        adapters: LoraAdapters,
        safety: SafetyChecker | None,
        recipe: Mapping[str, Any],
    ) -> None:
        self.pipeline = pipeline
        self.adapters = adapters
        self.safety = safety
        self._previewer = previewer_of(pipeline, model)
        self._model = model
        self._inputs = prompts.inputs
        self._prompts = prompts
        if isinstance(adapters, UNetAdapters):
            # They change the text encoders, too.
            adapters.when_changed(prompts.forget)
        self._fill_to = model.batch
        self._recipe = recipe
        #: As which its files were read.
        self.files: FileStates = {}
        #: The pipeline itself; of Kandinsky's combined one, which is a prior and a decoder, the decoder.
        self._denoiser = getattr(pipeline, "decoder_pipe", pipeline)
        # Tensors stay on the device; but only these pipelines' are in 0…1, as the arrays of all are.
        self._output = "pt" if weighs_prompts(type(pipeline)) else "np"
        self.own_scheduler = spaced_as_distilled(self._denoiser.scheduler, model.distilled)
        self._why_no_slots: str | None = _UNKNOWN
        begins_at_first = type(pipeline).__name__ == "StableDiffusionXLPipeline"
        self._sdxl = type(pipeline).__name__.startswith("StableDiffusionXL")
        self._fresh_schedulers = FreshSchedulers(self.own_scheduler, begins_at_first=begins_at_first, sdxl=self._sdxl)
        self._takes = inspect.signature(type(self._denoiser).__call__).parameters

    @torch.inference_mode()
    def render(
        self,
        specs: Sequence[Spec],
        on_step: Callable[[], None],
        *,
        at_most: int | None = None,
        threads: int | None = None,
        looks: Looks | None = None,
    ) -> RenderResult:
        if self._recipe["threads"] is not None:
            # Of this thread, which renders: PyTorch keeps the number for each.
            torch.set_num_threads(threads or self._recipe["threads"])
        self._fill_to = min(at_most or self._model.batch, self._model.batch)
        try:
            return self._render(specs, StepListener(on_step, looks, self._previewer))
        except Abandoned:
            raise
        except Exception as error:  # noqa: BLE001 - a pipeline can raise anything; it is raised as a fault below
            fault = as_fault(error)
        # Outside the handler: what was caught there holds the batch's tensors.
        release_memory()
        raise fault

    def slots(self) -> SlotLoop | None:
        if self._why_no_slots is None:
            return DiffusersSlots(self._slot_parts())
        if self._why_no_slots == _UNKNOWN:
            self._why_no_slots = self._slots_lack()
            if self._why_no_slots is not None:
                said = {"model": self._model.alias, "reason": self._why_no_slots}
                log.info("pictures join and leave between batches only", extra=said)
            return self.slots()
        return None

    def _slots_lack(self) -> str | None:
        """Return why there are no slots; None: there are. Raises DeviceBroken."""
        if not has_slots(type(self.pipeline)):
            return f"{type(self.pipeline).__name__} has its own loop"
        if has_hooks(self.pipeline):
            return "parts of it wait in the computer's memory"
        try:
            kept = rows_keep_to_themselves(self.pipeline)
        except Exception as error:  # noqa: BLE001 - a model can raise anything
            fault = as_fault(error)
            if isinstance(fault, DeviceBroken):
                raise fault from None
            return f"a call of four rows failed: {fault}"
        return None if kept else "the last bits of a picture depend on its neighbours"

    def _slot_parts(self) -> SlotParts:
        if not isinstance(self.adapters, UNetAdapters):
            raise TypeError("only these pipelines have slots")
        return SlotParts(
            pipeline=self.pipeline,
            model=self._model,
            inputs=self._inputs,
            adapters=self.adapters,
            prompts=self._prompts,
            safety=self.safety,
            schedulers=self._fresh_schedulers,
            recipe=self._recipe,
            check=self._check,
            is_spoiled=self._spoiled,
            in_single_precision=lambda spec: self._again_in_single_precision([spec]),
            remarks=self._remarks,
            previewer=self._previewer,
            saves_memory=lambda: self._saves_memory,
        )

    @property
    def words(self) -> EmbeddingWords:
        """The textual inversions that its text encoders know, which loaded models of the same weights share."""
        return self._prompts.words

    def save_memory(self) -> bool:
        decoder: Any = getattr(self._denoiser, "vae", None)
        if self._saves_memory or not hasattr(decoder, "enable_tiling"):
            return False
        decoder.enable_slicing()
        decoder.enable_tiling()
        return True

    @property
    def _saves_memory(self) -> bool:
        """Whether the VAE does, which loaded models of the same weights share."""
        decoder = getattr(self._denoiser, "vae", None)
        return bool(getattr(decoder, "use_slicing", False) and getattr(decoder, "use_tiling", False))

    def _render(self, specs: Sequence[Spec], steps: StepListener) -> RenderResult:
        for spec in specs:
            self._check(spec)
        tensors = self._tensors(specs, steps)
        if self._spoiled(tensors):
            if len(specs) > 1:
                raise RenderFailed("a picture of this batch is black or not finite in half precision", _BAD)
            return self._again_in_single_precision(specs, steps)
        return self._finished(specs, tensors, {})

    def _again_in_single_precision(self, specs: Sequence[Spec], steps: StepListener | None = None) -> RenderResult:
        tensors = self._in_single_precision(specs, steps or StepListener(lambda: None, None, self._previewer))
        because = f"black or not finite in {self._recipe['dtype']}"
        return self._finished(specs, tensors, {"dtype": "float32", "because": because})

    def _finished(self, specs: Sequence[Spec], tensors: torch.Tensor, beside: Mapping[str, Any]) -> RenderResult:
        """Check and describe pictures. Raises RenderFailed if the safety checker flags one.

        Args:
            beside: what the recipe says that it does not say of every picture.
        """
        recipe = {
            **self._recipe,
            **sampler_recipe(self._denoiser.scheduler),
            **call_recipe(self._denoiser, self._takes),
        }
        if recipe["threads"] is not None:
            recipe["threads"] = torch.get_num_threads()
        if embeddings := self._prompts.embeddings(specs):
            recipe["embeddings"] = embeddings
        if specs[0].loras:
            recipe["loras"] = self.adapters.recipe(specs[0].loras)
        if self._saves_memory:
            recipe["vae"] = "sliced and tiled"
        pictures = to_pictures(tensors)
        passed = {} if self.safety is None else self.safety.passed(pictures)
        remarks = [self._remarks(spec) for spec in specs]
        return RenderResult(pictures=pictures, recipe={**recipe, **beside, **passed}, remarks=remarks)

    def _remarks(self, spec: Spec) -> tuple[str, ...]:
        unread = self._prompts.unread(spec, self._model.alias)
        return (*unread, *self._prompts.words_alone(spec), *guidance_remarks(spec, self._model))

    def _check(self, spec: Spec) -> None:
        """Raise RenderFailed for what the model's own files forbid: where it was submitted they may not have been."""
        try:
            check_sampler(spec, self._model)
            check_clip_skip(spec, self._model)
        except BadSpecification as error:
            raise RenderFailed(str(error), _BAD) from None
        if spec.long_prompts == "refuse" or fails_on_long_prompts(type(self._denoiser).__name__):
            for end in self._prompts.unread(spec, self._model.alias):
                raise RenderFailed(end, _BAD)

    def _tensors(self, specs: Sequence[Spec], steps: StepListener) -> torch.Tensor:
        """Return the pictures as (batch, channel, height, width), 0…1, in the order of the specifications."""
        shared = specs[0]
        self._denoiser.scheduler = make_scheduler(shared.sampler, self.own_scheduler, sdxl=self._sdxl)
        self.adapters.switch(shared.loras or {})
        with attention(self._model.attention), tf32(self._model.tf32):
            plain = [position for position, spec in enumerate(specs) if not changes(spec)]
            made = dict(zip(plain, self._by_calls([specs[position] for position in plain], plain, steps), strict=True))
            for position, spec in enumerate(specs):
                if position not in made:
                    made[position] = self._alone(spec, partial(steps.alone, position))
            return torch.stack([made[position] for position in range(len(specs))])

    def _by_calls(self, specs: Sequence[Spec], positions: Sequence[int], steps: StepListener) -> Sequence[torch.Tensor]:
        """Return pictures by calls of the pipeline; those whose prompts are equally long in the same one."""
        if not specs:
            return []
        made: dict[int, torch.Tensor] = {}
        filled = self._filled(specs)
        for words in self._prompts.arguments(filled):
            at = words.pop("at")
            # Those that only fill the batch up are the last ones.
            theirs = [positions[index] for index in at if index < len(positions)]
            made |= zip(at, self._call([filled[index] for index in at], words, theirs, steps), strict=True)
        return [made[index] for index in range(len(specs))]

    def _alone(self, spec: Spec, on_step: Callable[[Callable[[], SmallPictures]], None]) -> torch.Tensor:
        """Return a picture whose prompts change between steps, or are put together, as slots draw it."""
        if not has_slots(type(self.pipeline)):
            raise RenderFailed(f"prompt: {of_own_loop(type(self.pipeline).__name__)}")
        return DiffusersSlots(self._slot_parts()).alone(spec, on_step)

    def _filled(self, specs: Sequence[Spec]) -> Sequence[Spec]:
        """Fill the batch up if parts are compiled: they would be compiled anew for each batch size."""
        missing = max(0, self._fill_to - len(specs)) if self._model.compile != "none" else 0
        return [*specs, *[specs[-1]] * missing]

    def _call(
        self, specs: Sequence[Spec], words: Mapping[str, Any], positions: Sequence[int], steps: StepListener
    ) -> Any:
        shared = specs[0]
        # On the CPU, so that a seed means the same noise on every device.
        generators = [torch.Generator("cpu").manual_seed(spec.seed) for spec in specs]
        listeners = steps.listeners(self._denoiser, positions, shared)
        if self._denoiser is not self.pipeline:
            words = image_embeddings(self.pipeline.prior_pipe, specs, generators, listeners["callback_on_step_end"])
        asked = {
            "width": shared.width,
            "height": shared.height,
            "num_inference_steps": shared.num_inference_steps,
            "guidance_scale": shared.guidance_scale,
            "generator": generators,
            "output_type": self._output,
            **words,
            **{name: getattr(shared, name) for name in _PASSED_ON},
            **{name: one_or_all(getattr(shared, name)) for name in PER_CONTROLNET},
            **listeners,
        }
        asked |= family_arguments(self._denoiser, shared, self._takes)
        given = {name: value for name, value in asked.items() if name in self._takes and value is not None}
        if shared.control_images:
            given["image"] = self._conditions(specs)
        if "callback_on_step_end" in given:
            given.pop("callback", None)
        # Here, too, for pipelines that encode prompts themselves.
        with text_model(getattr(self._denoiser, "text_encoder", None)):
            made = self._denoiser(**given).images
        return made if isinstance(made, torch.Tensor) else torch.from_numpy(made).permute(0, 3, 1, 2)

    def _conditions(self, specs: Sequence[Spec]) -> Any:
        """Return a tensor (batch, 3, height, width), 0…1, for each ControlNet; for a single one, not in a list."""
        resize = partial(self.pipeline.control_image_processor.preprocess, height=specs[0].height, width=specs[0].width)
        columns = zip(*(spec.control_images or () for spec in specs), strict=True)
        return one_or_all([resize([self._inputs.get(name, read_image) for name in column]) for column in columns])

    def _spoiled(self, tensors: torch.Tensor) -> bool:
        """Tell whether half precision may have spoiled a picture. Raises RenderFailed if something else did."""
        finite = bool(tensors.isfinite().all())
        if self._recipe["dtype"] == "float32":
            if not finite:
                raise RenderFailed("the picture is not finite (NaN): the model cannot render it", _BAD)
            return False
        return not finite or bool((tensors.amax(dim=(1, 2, 3)) <= 0).any())

    def _in_single_precision(self, specs: Sequence[Spec], steps: StepListener) -> torch.Tensor:
        """Render again in single precision; what is still black is meant to be. Raises RenderFailed for NaN."""
        half = getattr(torch, self._recipe["dtype"])
        try:
            # Inside: where memory runs out half-way, some parts are in single precision already.
            self.pipeline.to(torch.float32)
            self._prompts.forget()
            tensors = self._tensors(specs, steps)
        finally:
            self.pipeline.to(half)
            self._prompts.forget()
        if not tensors.isfinite().all():
            raise RenderFailed(
                "the picture is not finite (NaN), even in single precision: the model cannot render it", _BAD
            )
        return tensors


def one_or_all(values: Any) -> Any:
    """Return a single value by itself and several as a list, as pipelines take those of their ControlNets."""
    if values is None:
        return None
    return values[0] if len(values) == 1 else list(values)
