"""Denoising by slots: pictures of one Diffusers pipeline join and leave at every call of its UNet.

worker/README.md tells what is the same to the last bit, and which pipelines have slots.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from storage.errors import RenderFailed, RenderFault
from storage.spec.picture import Spec
from worker.rendering.backend import NoPreview, Replay, Slot, SlotPicture, SmallPictures
from worker.rendering.previews import small_pictures
from worker.rendering.slot import DiffusersSlot, SlotParts
from worker.rendering.slot_decoding import SlotDecoder
from worker.rendering.slot_rows import RowLayout, UNetRows
from worker.rendering.slot_sampling import SlotSampler
from worker.rendering.torch_faults import as_fault
from worker.rendering.tuning import attention, release_memory, tf32, wait_for_device

_Made = TypeVar("_Made")
_Sampler = SlotSampler[DiffusersSlot]


class DiffusersSlots:
    """A Stable Diffusion or SDXL pipeline as `worker.rendering.backend.SlotLoop`."""

    def __init__(self, parts: SlotParts) -> None:
        self._parts = parts
        self._unet = UNetRows(parts.pipeline, compiled=parts.compiled)
        self._decoder = SlotDecoder(parts)
        #: Those of the last call: most likely those of the next one's first.
        self._threads: int | None = None
        self.last_rows = (0, 0)

    def admit(self, spec: Spec, *, replay: Replay | None = None) -> Slot:
        threads = replay.calls[0][1] if replay is not None and replay.calls else self._threads
        return self._run(lambda: self._admit(spec, replay), threads)

    def tick(
        self, slots: Sequence[Slot], *, threads: int | None = None, apart: bool = False
    ) -> Mapping[int, RenderFailed]:
        mine = _mine(slots)
        if any(slot.replay is not None for slot in mine) and len(mine) > 1:
            raise ValueError("a call that is made again is one picture's alone")
        if any(slot.made >= slot.calls for slot in mine):
            raise ValueError("all calls of a slot were made already")
        again = mine[0].replayed() if mine else None
        self._threads = threads if again is None else again[1]
        return self._run(lambda: self._tick(mine, apart=apart), self._threads)

    def finish(self) -> None:
        self._run(wait_for_device, self._threads)

    def preview(self, slots: Sequence[Slot]) -> SmallPictures:
        mine = _mine(slots)
        return self._run(lambda: self._small(mine), self._threads)

    def _small(self, slots: Sequence[DiffusersSlot]) -> SmallPictures:
        return small_pictures(self._parts.previewer, torch.cat([slot.denoised() for slot in slots]))

    def develop(self, slots: Sequence[Slot]) -> Sequence[SlotPicture | RenderFailed]:
        mine = _mine(slots)
        if any(slot.made < slot.calls for slot in mine):
            raise ValueError("not all calls of a slot were made")
        made: dict[int, SlotPicture | RenderFailed] = {}
        # By as many threads as made the last call, so that a replay knows.
        for threads in dict.fromkeys(slot.ran[-1][1] for slot in mine):
            at = [number for number, slot in enumerate(mine) if slot.ran[-1][1] == threads]
            some = [mine[number] for number in at]
            made |= zip(at, self._run(partial(self._develop, some), threads), strict=True)
        return [made[number] for number in range(len(mine))]

    def alone(self, spec: Spec, on_step: Callable[[Callable[[], SmallPictures]], None]) -> torch.Tensor:
        """Return a picture (3, height, width), 0…1, that is denoised beside no other.

        For models whose pictures go batch by batch, and for the second attempt in single precision. Raises what happens
        as it is.
        """
        slot = self._admit(spec, None)
        while slot.made < slot.calls:
            for failure in self._tick([slot], apart=False).values():
                raise failure
            on_step(lambda: self._small([slot]))
        return self._decoder.tensor(slot)

    @torch.inference_mode()
    def _run(self, do: Callable[[], _Made], threads: int | None) -> _Made:
        """Do something by so many threads of a CPU. Raises whatever happens as a RenderFault."""
        own = self._parts.recipe["threads"]
        # Of this thread, which renders: PyTorch keeps the number for each. Telling it takes longer than asking.
        if own is not None and torch.get_num_threads() != (threads or own):
            torch.set_num_threads(threads or own)
        try:
            with attention(self._parts.model.attention), tf32(self._parts.model.tf32) if own is None else nullcontext():
                return do()
        except NoPreview:
            raise
        except Exception as error:  # noqa: BLE001 - a pipeline can raise anything; it is raised as a fault below
            fault = as_fault(error)
        # Outside the handler: what was caught there holds the call's tensors.
        release_memory()
        raise fault

    # -- admission ---------------------------------------------------------------------------------------------

    def _admit(self, spec: Spec, replay: Replay | None) -> DiffusersSlot:
        self._parts.check(spec)
        slot = DiffusersSlot(self._parts, spec, replay)
        in_pairs = replay is None or not any(row % 2 or rows % 2 for rows, _, row, _ in replay.calls)
        if not in_pairs and slot.is_guided and self._unet.guesses(spec.guess_mode):
            # The ControlNets' rows are every other one.
            raise RenderFailed("the recipe's calls cannot be made again: their rows are not in pairs")
        if slot.rows > 2 and self._unet.guesses(spec.guess_mode):
            raise RenderFailed("prompt: prompts cannot be put together by AND where ControlNets guess")
        return slot

    # -- ticks -------------------------------------------------------------------------------------------------

    def _tick(self, slots: Sequence[DiffusersSlot], *, apart: bool) -> Mapping[int, RenderFailed]:
        if not slots:
            return {}
        shared = slots[0].spec
        threads = torch.get_num_threads() if self._parts.recipe["threads"] is not None else None
        for slot in slots:
            if threads is not None and slot.made == 0 and slot.encoded_by != threads:
                slot.encode(self._parts)
        guess = self._unet.guesses(shared.guess_mode)
        predicted = _Predicted(_gathered(slots))
        notes: list[tuple[DiffusersSlot, int, int, int | None]] = []
        used = computed = 0
        if apart:
            # For all of them: sets that take turns at one place would be copied there at every call.
            self._parts.adapters.make_room([slot.loras for slot in slots])
        for parts in self._calls(predicted.samplers, guess=guess, apart=apart):
            members, latents = predicted.members(parts), predicted.model_input(parts)
            again = members[0].replayed()
            layout = RowLayout(
                members,
                compiled=self._parts.compiled,
                replayed=None if again is None else (again[0], again[2]),
            )
            rank = self._switch(members, layout)
            noise = self._unet.predicted(members, latents, layout, guess=guess)
            used += sum(slot.rows for slot in members)
            computed += layout.rows
            predicted.take(parts, noise)
            notes += [(slot, layout.rows, layout.place(number), rank) for number, slot in enumerate(members)]
        self.last_rows = (used, computed)
        failed = _stepped(predicted.steps())
        for slot, rows, row, rank in notes:
            if slot not in failed:
                slot.note(rows, threads, row, rank)
        return {number: failed[slot] for number, slot in enumerate(slots) if slot in failed}

    def _switch(self, members: Sequence[DiffusersSlot], layout: RowLayout) -> int | None:
        """Give the rows of the next call their LoRAs; return the rank to which they are padded, if they are."""
        first, adapters = members[0].loras, self._parts.adapters
        if first is not None and not first.is_low_rank:
            # They share a call with their like alone.
            adapters.use(first)
            return None
        return adapters.use_by_row([slot.loras for slot in members], layout.slot_of, members[0].replayed_rank())

    def _calls(self, samplers: Sequence[_Sampler], *, guess: bool, apart: bool) -> "list[list[_Part]]":
        """Sort samplers into calls of the UNet, guided ones first: embeddings of a call are equally long.

        Guessing, guided ones have a call of their own, so that a place in it tells the place in the ControlNets' call.
        LoRAs that change whole weights are those of all rows: each set of them has a call of its own; apart, so has
        each other set.
        """
        calls: dict[tuple[object, ...], list[_Part]] = {}
        for sampler in sorted(samplers, key=lambda sampler: not _alive(sampler)[0].is_guided):
            slot = _alive(sampler)[0]
            common = (slot.length, guess and slot.is_guided, slot.own_weights)
            for loras, part in _by_loras(sampler) if apart else ((None, _Part(sampler, None)),):
                calls.setdefault((*common, loras), []).append(part)
        return list(calls.values())

    # -- development -------------------------------------------------------------------------------------------

    def _develop(self, slots: Sequence[DiffusersSlot]) -> list[SlotPicture | RenderFailed]:
        made: dict[DiffusersSlot, SlotPicture | RenderFailed] = {}
        together = [slot for slot in slots if slot.replay is None]
        for chunk in [*self._decoder.chunks(together), *([slot] for slot in slots if slot.replay is not None)]:
            made |= zip(chunk, self._decoder.pictures(chunk), strict=True)
        return [made[slot] for slot in slots]


@dataclass(frozen=True)
class _Part:
    """Members of one sampler that have a call of the UNet in common."""

    sampler: _Sampler
    #: Which of its members; None: all.
    places: Sequence[int] | None


class _Predicted:
    """The noise that calls of the UNet predict, put together by sampler."""

    def __init__(self, samplers: Sequence[_Sampler]) -> None:
        self.samplers = samplers
        self._inputs = {sampler: sampler.model_input() for sampler in samplers}
        self._noise: dict[_Sampler, torch.Tensor] = {}

    def members(self, parts: Sequence[_Part]) -> list[DiffusersSlot]:
        return [slot for part in parts for slot in self._of(part)]

    def model_input(self, parts: Sequence[_Part]) -> torch.Tensor:
        inputs = [(self._inputs[part.sampler], part.places) for part in parts]
        return torch.cat([latents if places is None else latents[list(places)] for latents, places in inputs])

    def take(self, parts: Sequence[_Part], noise: torch.Tensor) -> None:
        """Note what one call predicted for these parts, one after the other."""
        for part, own in zip(parts, noise.split([len(self._of(part)) for part in parts]), strict=True):
            if part.places is None:
                self._noise[part.sampler] = own
                continue
            whole = self._noise.setdefault(part.sampler, own.new_empty(len(part.sampler.members), *own.shape[1:]))
            whole[list(part.places)] = own

    def steps(self) -> list[tuple[_Sampler, torch.Tensor]]:
        return list(self._noise.items())

    def _of(self, part: _Part) -> list[DiffusersSlot]:
        alive = _alive(part.sampler)
        return alive if part.places is None else [alive[place] for place in part.places]


def _by_loras(sampler: _Sampler) -> Iterable[tuple[object, _Part]]:
    """Sort a sampler's members by their LoRAs."""
    found: dict[object, list[int]] = {}
    for place, slot in enumerate(_alive(sampler)):
        found.setdefault(None if slot.loras is None else slot.loras.key, []).append(place)
    return [(key, _Part(sampler, places)) for key, places in found.items()]


def _mine(slots: Sequence[Slot]) -> list[DiffusersSlot]:
    mine = [slot for slot in slots if isinstance(slot, DiffusersSlot)]
    if len(mine) != len(slots):
        raise TypeError("slots of another backend")
    return mine


def _alive(sampler: _Sampler) -> list[DiffusersSlot]:
    return [slot for member in sampler.members if (slot := member()) is not None]


def _gathered(slots: Sequence[DiffusersSlot]) -> list[_Sampler]:
    """Return the samplers of slots, and of no others: fresh ones with equal settings as one, those left out apart."""
    for sampler in dict.fromkeys(slot.sampler for slot in slots):
        alive = _alive(sampler)
        taken = [slot for slot in alive if slot in slots]
        if len(taken) < len(sampler.members):
            _part(sampler, [taken, [slot for slot in alive if slot not in slots]])
    fresh: dict[tuple[object, ...], list[_Sampler]] = {}
    for sampler in dict.fromkeys(slot.sampler for slot in slots):
        slot = _alive(sampler)[0]
        if sampler.can_be_joined and slot.replay is None:
            spec = slot.spec
            key = (spec.sampler, spec.num_inference_steps, spec.eta, slot.is_guided, slot.length, slot.own_weights)
            fresh.setdefault(key, []).append(sampler)
    for first, *others in fresh.values():
        first.join(others)
        for slot in _alive(first):
            slot.sampler = first
    return list(dict.fromkeys(slot.sampler for slot in slots))


def _part(sampler: _Sampler, groups: Sequence[Sequence[DiffusersSlot]]) -> None:
    """Give each of these groups of a sampler's members a sampler of its own."""
    for group in groups:
        if group:
            own = sampler.apart([sampler.place(slot) for slot in group])
            for slot in group:
                slot.sampler = own


def _stepped(steps: Sequence[tuple[_Sampler, torch.Tensor]]) -> Mapping[DiffusersSlot, RenderFailed]:
    """Have each sampler take its step; return the slots whose sampler cannot.

    Raises OutOfMemory and DeviceBroken, after which none has moved.
    """
    failed: dict[DiffusersSlot, RenderFailed] = {}
    before: list[tuple[_Sampler, Any]] = []
    left = list(steps)
    try:
        while left:
            sampler, noise = left.pop(0)
            before.append((sampler, sampler.state()))
            fault = _fault_of(sampler, noise)
            if fault is None:
                continue
            if not isinstance(fault, RenderFailed):
                raise fault
            sampler.restore(before.pop()[1])
            members = _alive(sampler)
            if len(members) == 1:
                failed[members[0]] = fault
                continue
            # One of them may be to blame.
            _part(sampler, [[slot] for slot in members])
            left += [(slot.sampler, one[None]) for slot, one in zip(members, noise, strict=True)]
    except RenderFault:
        for sampler, state in before:
            sampler.restore(state)
        raise
    return failed


def _fault_of(sampler: _Sampler, noise: torch.Tensor) -> RenderFault | None:
    try:
        sampler.step(noise)
    except Exception as error:  # noqa: BLE001 - a scheduler can raise anything
        return as_fault(error)
    return None
