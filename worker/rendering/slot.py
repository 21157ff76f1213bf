"""One picture on its way through the denoising loop, and all that is prepared for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from storage.errors import RenderFailed
from storage.spec.models import DiffusersModel
from storage.spec.picture import Spec
from worker.rendering.backend import NoPreview, RenderResult, Replay
from worker.rendering.denoised import denoised
from worker.rendering.input_cache import InputCache
from worker.rendering.lora_layers import padded
from worker.rendering.loras import UNetAdapters
from worker.rendering.pictures import read_image
from worker.rendering.previews import Previewer
from worker.rendering.prompt_steps import Embeddings
from worker.rendering.prompts import Prompts
from worker.rendering.safety import SafetyChecker
from worker.rendering.slot_sampling import FreshSchedulers, SlotSampler


@dataclass(frozen=True, kw_only=True)
class SlotParts:
    """What slots need of a loaded pipeline (`worker.rendering.pipeline.LoadedPipeline`)."""

    pipeline: Any
    model: DiffusersModel
    inputs: InputCache
    adapters: UNetAdapters
    prompts: Prompts
    safety: SafetyChecker | None
    schedulers: FreshSchedulers
    #: What pictures of this model have in common (`RenderResult.recipe`).
    recipe: Mapping[str, Any]
    #: Raises RenderFailed for what the model's own files forbid.
    check: Callable[[Spec], None]
    #: Whether half precision spoiled a picture, (1, 3, height, width). Raises RenderFailed if something else did.
    is_spoiled: Callable[[torch.Tensor], bool]
    #: Renders one picture in single precision, by a call of the pipeline.
    in_single_precision: Callable[[Spec], RenderResult]
    #: What is to be said of a picture.
    remarks: Callable[[Spec], tuple[str, ...]]
    #: Makes small pictures of latents.
    previewer: Previewer
    #: Whether decoding takes less memory and more time.
    saves_memory: Callable[[], bool]

    @property
    def compiled(self) -> bool:
        return self.model.compile != "none"

    @property
    def nets(self) -> int:
        """How many ControlNets there are."""
        controlnet = getattr(self.pipeline, "controlnet", None)
        return 0 if controlnet is None else len(getattr(controlnet, "nets", [controlnet]))


@dataclass(frozen=True, kw_only=True)
class NetWindow:
    """How strongly a ControlNet steers, and in which share of the steps."""

    scale: float
    start: float
    end: float

    def at(self, step: int, steps: int) -> float:
        # As the pipelines have it.
        return 0.0 if step / steps < self.start or (step + 1) / steps > self.end else self.scale


class DiffusersSlot:
    """A picture's latents, sampler, embeddings and place in its timesteps (`worker.rendering.backend.Slot`)."""

    def __init__(self, parts: SlotParts, spec: Spec, replay: Replay | None) -> None:
        """Prepare a picture. Raises RenderFailed and whatever libraries raise."""
        unet = parts.pipeline.unet
        self.spec = spec
        self.replay = replay
        self.loras = parts.adapters.get(spec.loras)
        self.is_guided = spec.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
        self.images = _images(parts, spec)
        self.windows = _windows(parts, spec)
        scheduler = parts.schedulers.get(spec.sampler, spec.num_inference_steps)
        #: As the web UI counts those of its prompts: two for each of a sampler that calls the model twice in a step.
        self._steps = spec.num_inference_steps * getattr(scheduler, "order", 1)
        #: How many calls there are more: all of them belong to the first step.
        self._beside = max(0, len(scheduler.timesteps) - self._steps)
        #: By how many threads of a CPU they were made: those of the first call, so that a replay knows.
        self.encoded_by = 0
        self.encode(parts)
        if len(self.words.weights) > 1 and not self.is_guided:
            raise RenderFailed("prompt: AND steers by guidance, which is built into this model")
        like = self.words.at(0, 0)["prompt_embeds"]
        factor = parts.pipeline.vae_scale_factor
        shape = (unet.config.in_channels, spec.height // factor, spec.width // factor)
        self.sampler: SlotSampler[DiffusersSlot] = SlotSampler.begun(scheduler, spec, shape, like)
        self.sampler.add(self)
        self.time_ids = _time_ids(parts, spec, self.words.at(0, 0))
        self.guidance_embedding = None
        if unet.config.time_cond_proj_dim is not None:
            scale = torch.tensor([spec.guidance_scale - 1])
            made = parts.pipeline.get_guidance_scale_embedding(scale, embedding_dim=unet.config.time_cond_proj_dim)
            self.guidance_embedding = made.to(like)
        #: Runs of equal calls, as `Replay.calls`, but lists; and the rank of each, as `Replay.lora_ranks`.
        self.ran: list[list[int | None]] = []
        self.ranks: list[int | None] = []
        if replay is not None:
            self._check_replay(replay)

    @property
    def made(self) -> int:
        return self.sampler.made

    @property
    def calls(self) -> int:
        return len(self.sampler.times)

    @property
    def timestep(self) -> float:
        return self.sampler.times[self.made]

    @property
    def scales(self) -> Sequence[float]:
        """How strongly each of its prompts steers; none without guidance."""
        return [self.spec.guidance_scale * weight for weight in self.words.weights] if self.is_guided else []

    @property
    def rows(self) -> int:
        """How many rows of a call are its own: one for each prompt, and one without, if it is guided."""
        return 1 + len(self.words.weights) if self.is_guided else 1

    @property
    def length(self) -> int:
        """How many tokens its embeddings have, at all calls."""
        return self.words.length

    def embedded(self, name: str, part: int | None) -> torch.Tensor:
        """Return the embeddings of one of its prompts for the next call; `part` None: of its negative prompt."""
        return self.words.at(max(0, self.made - self._beside), part)[name]

    @property
    def own_weights(self) -> tuple[object, ...] | None:
        """Equal for pictures whose LoRAs change whole weights in the same way; None: they do not change any."""
        return None if self.loras is None or self.loras.is_low_rank else self.loras.key

    @property
    def latents(self) -> torch.Tensor:
        """Its own, (1, channels, height, width)."""
        place = self.sampler.place(self)
        return self.sampler.latents[place : place + 1]

    def denoised(self) -> torch.Tensor:
        """Return its latents without noise, as far as its last step tells, (1, channels, height, width).

        Raises NoPreview.
        """
        if self.sampler.last is None:
            raise NoPreview("its last step was taken back")
        return denoised(self.sampler.scheduler, self.sampler.last.rows([self.sampler.place(self)]))

    @property
    def generator(self) -> torch.Generator:
        return self.sampler.generators[self.sampler.place(self)]

    def net_scale(self, net: int) -> float:
        """Return how strongly a ControlNet steers the next call."""
        return self.windows[net].at(self.made, self.calls)

    def encode(self, parts: SlotParts) -> None:
        parts.adapters.use_for_text(self.loras)
        self.words = parts.prompts.by_step(self.spec, self._steps)
        #: What the recipe says of textual inversions: before it is finished, their files may be others.
        self.embeddings = parts.prompts.embeddings([self.spec])
        self.encoded_by = torch.get_num_threads()
        #: A thing of these embeddings alone if they are the same at each call; None: they change between calls.
        self.unchanging = object() if self.words.is_unchanging else None

    def replayed(self) -> tuple[int, int | None, int] | None:
        """Return rows, threads and own row of the next call, if it is made as it was before."""
        if self.replay is None:
            return None
        left = self.made
        for rows, threads, row, calls in self.replay.calls:
            if left < calls:
                return rows, threads, row
            left -= calls
        raise ValueError("all calls of this picture were made")

    def replayed_rank(self) -> int | None:
        """Return to what the next call's LoRAs were padded, if it is made as it was before and that is known."""
        if self.replay is None:
            return None
        left = self.made
        for (*_, calls), rank in zip(self.replay.calls, self.replay.lora_ranks, strict=False):
            if left < calls:
                return rank
            left -= calls
        return None

    def note(self, rows: int, threads: int | None, row: int, rank: int | None) -> None:
        """Record a call that was made."""
        rank = rank if self.loras is not None else None
        if self.ran and self.ran[-1][:3] == [rows, threads, row] and self.ranks[-1] == rank:
            self.ran[-1][3] = int(self.ran[-1][3] or 0) + 1
        else:
            self.ran.append([rows, threads, row, 1])
            self.ranks.append(rank)

    def recorded(self) -> dict[str, Any]:
        """Return what the recipe says of the calls that were made."""
        ranks = {"lora_ranks": list(self.ranks)} if any(self.ranks) else {}
        return {"calls": [list(run) for run in self.ran], **ranks}

    def _check_replay(self, replay: Replay) -> None:
        own = self.rows
        fits = all(
            0 <= row <= rows - own and count > 0 and (threads or 1) > 0 for rows, threads, row, count in replay.calls
        )
        made = sum(count for *_, count in replay.calls)
        count, which = replay.decoded
        least = padded(self.loras.rank) if self.loras is not None and self.loras.is_low_rank else 0
        if any(rank is not None and rank < least for rank in replay.lora_ranks):
            raise RenderFailed("the recipe's calls cannot be made again: the LoRAs have higher ranks by now")
        if not fits or made != self.calls or not 0 <= which < count:
            raise RenderFailed(
                f"the recipe's calls cannot be made again: they are {made}, this picture takes {self.calls}"
            )


def _images(parts: SlotParts, spec: Spec) -> Sequence[torch.Tensor]:
    """Return an image (1, 3, height, width), 0…1, for each ControlNet."""
    given = spec.control_images or ()
    if len(given) != parts.nets:
        raise RenderFailed(f"control_images: {len(given)} given, the model has {parts.nets} ControlNets")
    if not given:
        return ()
    net = parts.pipeline.controlnet
    resize = partial(parts.pipeline.control_image_processor.preprocess, height=spec.height, width=spec.width)
    return [
        resize([parts.inputs.get(name, read_image)])
        .to(dtype=torch.float32)
        .to(parts.pipeline._execution_device, net.dtype)
        for name in given
    ]


def _windows(parts: SlotParts, spec: Spec) -> Sequence[NetWindow]:
    def of_each(name: str, default: float) -> Sequence[float]:
        given = getattr(spec, name) or (default,)
        each = given * parts.nets if len(given) == 1 else given
        if len(each) != parts.nets:
            raise RenderFailed(f"{name}: {len(given)} numbers given, the model has {parts.nets} ControlNets")
        return each

    columns = (
        of_each("controlnet_conditioning_scale", 1.0),
        of_each("control_guidance_start", 0.0),
        of_each("control_guidance_end", 1.0),
    )
    return [NetWindow(scale=scale, start=start, end=end) for scale, start, end in zip(*columns, strict=True)]


def _time_ids(parts: SlotParts, spec: Spec, embeddings: Embeddings) -> torch.Tensor | None:
    """Return SDXL's micro-conditioning, (1, 6)."""
    if "pooled_prompt_embeds" not in embeddings:
        return None
    size, encoder = (spec.height, spec.width), parts.pipeline.text_encoder_2
    pooled = embeddings["pooled_prompt_embeds"]
    ids = parts.pipeline._get_add_time_ids(
        spec.original_size or size,
        spec.crops_coords_top_left or (0, 0),
        spec.target_size or size,
        dtype=embeddings["prompt_embeds"].dtype,
        text_encoder_projection_dim=pooled.shape[-1] if encoder is None else encoder.config.projection_dim,
    )
    found: torch.Tensor = ids.to(pooled.device)
    return found
