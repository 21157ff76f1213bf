"""From finished latents to pictures: decoded several in a call, then each checked and described by itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL

from storage.errors import RenderFailed
from worker.rendering.backend import SlotPicture
from worker.rendering.pictures import to_pictures
from worker.rendering.samplers import sampler_recipe
from worker.rendering.slot import DiffusersSlot, SlotParts
from worker.rendering.torch_faults import as_fault

#: More at once are not faster, and take more memory.
_MOST_AT_ONCE = 8


class SlotDecoder:
    """The VAE of one pipeline, and what a picture must pass after it."""

    def __init__(self, parts: SlotParts) -> None:
        self._parts = parts
        self._vae = parts.pipeline.vae
        #: Other VAEs may draw noise while they decode.
        self._draws = not isinstance(self._vae, AutoencoderKL)

    def chunks(self, slots: Sequence[DiffusersSlot]) -> Iterator[list[DiffusersSlot]]:
        """Split slots into those that are decoded together: 8, 4, 2, 1."""
        # Slices are single pictures; compiled, each number of pictures would be another program.
        alone = getattr(self._vae, "use_slicing", False) or self._parts.compiled or self._draws
        at = 0
        while at < len(slots):
            power = 1 << ((len(slots) - at).bit_length() - 1)
            size = 1 if alone else min(_MOST_AT_ONCE, power)
            yield list(slots[at : at + size])
            at += size

    def pictures(self, chunk: Sequence[DiffusersSlot]) -> list[SlotPicture | RenderFailed]:
        """Decode and check finished slots. Raises OutOfMemory and DeviceBroken."""
        replay = chunk[0].replay
        count, first = replay.decoded if replay is not None else (len(chunk), 0)
        try:
            tensors = self._decoded([chunk[0]] * count if replay is not None else chunk)
        except Exception as error:  # noqa: BLE001 - a VAE can raise anything; it is raised as a fault below
            fault = as_fault(error)
        else:
            return [
                self._finished(slot, tensors[first + number][None], [count, first + number])
                for number, slot in enumerate(chunk)
            ]
        if not isinstance(fault, RenderFailed):
            raise fault
        # One of them may be to blame.
        return [fault] if len(chunk) == 1 else [made for slot in chunk for made in self.pictures([slot])]

    def tensor(self, slot: DiffusersSlot) -> torch.Tensor:
        """Decode a finished slot, (3, height, width), 0…1, and check nothing. Raises whatever happens."""
        return self._decoded([slot])[0]

    def _decoded(self, slots: Sequence[DiffusersSlot]) -> torch.Tensor:
        """Return pictures (n, 3, height, width), 0…1, as the pipelines decode them."""
        pipeline, config = self._parts.pipeline, self._vae.config
        latents = torch.cat([slot.latents for slot in slots])
        if slots[0].time_ids is None:
            drawing = {"generator": slots[0].generator} if self._draws else {}
            image = self._vae.decode(latents / config.scaling_factor, return_dict=False, **drawing)[0]
            done: torch.Tensor = pipeline.image_processor.postprocess(image, output_type="pt")
            return done
        with self._upcast() as dtype:
            latents = latents.to(dtype)
            mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
            if mean is not None and std is not None:
                mean, std = (torch.tensor(numbers).view(1, -1, 1, 1).to(latents) for numbers in (mean, std))
                latents = latents * std / config.scaling_factor + mean
            else:
                latents = latents / config.scaling_factor
            image = self._vae.decode(latents, return_dict=False)[0]
        if pipeline.watermark is not None:
            image = pipeline.watermark.apply_watermark(image)
        done = pipeline.image_processor.postprocess(image, output_type="pt")
        return done  # noqa: RET504 - its type is said above

    @contextmanager
    def _upcast(self) -> Iterator[torch.dtype]:
        """Have the VAE in single precision where half precision is not enough for it, as SDXL's pipelines do."""
        before = self._vae.dtype
        if before != torch.float16 or not self._vae.config.force_upcast:
            yield before
            return
        try:
            self._vae.to(torch.float32)
            yield torch.float32
        finally:
            self._vae.to(before)

    def _finished(self, slot: DiffusersSlot, tensor: torch.Tensor, decoded: list[int]) -> SlotPicture | RenderFailed:
        """Check one picture, (1, 3, height, width), and describe it. Raises OutOfMemory and DeviceBroken."""
        try:
            if self._parts.is_spoiled(tensor):
                made = self._parts.in_single_precision(slot.spec)
                [remarks] = made.remarks
                return SlotPicture(picture=made.pictures[0], recipe=made.recipe, remarks=remarks)
            [picture] = to_pictures(tensor)
            recipe = self._recipe(slot, decoded)
            if self._parts.safety is not None:
                recipe |= self._parts.safety.passed([picture])
        except RenderFailed as failure:
            return failure
        return SlotPicture(picture=picture, recipe=recipe, remarks=self._parts.remarks(slot.spec))

    def _recipe(self, slot: DiffusersSlot, decoded: list[int]) -> dict[str, Any]:
        parts = self._parts
        recipe = {**parts.recipe, **sampler_recipe(slot.sampler.scheduler)}
        if recipe["threads"] is not None:
            recipe["threads"] = torch.get_num_threads()
        if slot.embeddings:
            recipe["embeddings"] = slot.embeddings
        if slot.loras is not None:
            recipe["loras"] = slot.loras.recipe()
        if parts.saves_memory():
            recipe["vae"] = "sliced and tiled"
        return recipe | slot.recorded() | {"decoded": decoded}
