"""One call of the UNet, and of its ControlNets, for slots whose steps, guidance and samplers differ.

A guided slot has rows that follow one another: one without its prompt, and one with each of its prompts, of which there
are more than one where `AND` puts some together. Then come the slots without
guidance, one row each. The call is filled up to one of a few shapes by copies of its last row: the last bits of a row
depend on the shape of the call and on its place in it, never on what is in the other rows.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from worker.rendering.backend import Replay
from worker.rendering.cross_attention import KeptProjections


class RowSource(Protocol):
    """What the rows of one slot are made of; see `DiffusersSlot`."""

    is_guided: bool
    time_ids: torch.Tensor | None
    guidance_embedding: torch.Tensor | None
    images: Sequence[torch.Tensor]
    replay: Replay | None
    unchanging: object | None

    @property
    def timestep(self) -> float: ...

    @property
    def scales(self) -> Sequence[float]: ...

    @property
    def rows(self) -> int: ...

    def embedded(self, name: str, part: int | None) -> torch.Tensor: ...

    def net_scale(self, net: int) -> float: ...


def filled_up(rows: int, *, compiled: bool) -> int:
    """Return the shape of a call for so many rows: 1, 2, 3, 4, 6, 8, 12, 16 …; compiled, powers of two alone."""
    power = 1 << (rows - 1).bit_length()
    return power * 3 // 4 if not compiled and power >= 4 and rows <= power * 3 // 4 else power


class RowLayout:
    """Which row of a call is whose."""

    def __init__(self, slots: Sequence[RowSource], *, compiled: bool, replayed: tuple[int, int] | None = None) -> None:
        """
        Args:
            slots: guided ones first.
            replayed: the rows of the call and the first of the slot's own, of a call that is made again.
        """
        self.guided = sum(slot.is_guided for slot in slots)
        rows = [slot.rows for slot in slots]
        own = [number for number, count in enumerate(rows) for _ in range(count)]
        self.rows, self.first = replayed or (filled_up(len(own), compiled=compiled), 0)
        self.used = slice(self.first, self.first + len(own))
        #: For each row, the number of its slot, and which of its prompts: None, where all are left out.
        self.slot_of = [own[0]] * self.first + own
        self.slot_of += [own[-1]] * (self.rows - len(self.slot_of))
        self.part_of: list[int | None] = [0] * self.rows
        self._places = []
        at = self.first
        for slot, count in zip(slots, rows, strict=True):
            self._places.append(at)
            if slot.is_guided:
                self.part_of[at : at + count] = [None, *range(count - 1)]
            at += count
        #: Whether a slot has several prompts.
        self.are_composed = max(rows) > 2

    def is_as(self, other: "RowLayout") -> bool:
        """Tell whether the rows are those of the same numbers, and of the same of their prompts."""
        return self.slot_of == other.slot_of and self.part_of == other.part_of

    def place(self, number: int) -> int:
        """Return the first row of a slot."""
        return self._places[number]


class UNetRows:
    """The UNet and the ControlNets of one pipeline, called for slots."""

    def __init__(self, pipeline: Any, *, compiled: bool) -> None:
        self._unet = pipeline.unet
        controlnet = getattr(pipeline, "controlnet", None)
        self._nets: list[Any] = [] if controlnet is None else list(getattr(controlnet, "nets", [controlnet]))
        self._compiled = compiled
        #: Compiled, layers stay as they were.
        self._kept = None if compiled else KeptProjections(self._unet)
        #: Of the last call, what its conditions were put together from: most calls have those of the one before.
        self._put_together: dict[str, tuple[list[torch.Tensor], torch.Tensor]] = {}
        #: And all of them, of slots whose embeddings do not change: for whose, in which rows.
        self._whole: tuple[list[object], RowLayout, dict[str, Any]] | None = None
        self._pools = bool(self._nets and self._nets[0].config.global_pool_conditions)

    def guesses(self, guess_mode: bool | None) -> bool:
        """Tell whether ControlNets steer the conditional rows only."""
        return bool(self._nets) and (bool(guess_mode) or self._pools)

    def predicted(
        self, slots: Sequence[RowSource], latents: torch.Tensor, layout: RowLayout, *, guess: bool
    ) -> torch.Tensor:
        """Return the noise that is predicted for each slot, guided, (slots, channels, height, width).

        Args:
            slots: guided ones first; in guess mode, guided ones alone or unguided ones alone.
            latents: scaled for this step, one of each slot.
        """
        steering = [scale for slot in slots for scale in slot.scales]
        numbers = self._numbers(slots, layout, steering, like=latents)
        timesteps, scales = numbers[: layout.rows], numbers[layout.rows : layout.rows + len(steering)]
        per_net = numbers[layout.rows + len(steering) :].reshape(len(self._nets), layout.rows)
        index = _on(latents.device, torch.tensor(layout.slot_of))
        given = self._conditions(slots, layout) | {"sample": latents.index_select(0, index), "timestep": timesteps}
        if self._nets:
            given |= self._steered(slots, layout, given, per_net, guess=guess)
        guidance = [slot.guidance_embedding for slot in slots if slot.guidance_embedding is not None]
        if guidance:
            given["timestep_cond"] = torch.cat([guidance[number] for number in layout.slot_of])
        with contextlib.nullcontext() if self._kept is None else self._kept.used(given["encoder_hidden_states"]):
            noise = self._unet(**given, return_dict=False)[0][layout.used]
        scales = scales.reshape(-1, 1, 1, 1)
        if layout.are_composed:
            return _guided_one_by_one(noise, scales, slots)
        return self._guided(noise, scales, layout)

    def _guided(self, noise: torch.Tensor, scales: torch.Tensor, layout: RowLayout) -> torch.Tensor:
        pairs, alone = noise[: 2 * layout.guided], noise[2 * layout.guided :]
        if not layout.guided:
            # What a compiled UNet returned is overwritten by its next call.
            return alone.clone() if self._compiled else alone
        without, with_prompt = pairs[0::2], pairs[1::2]
        # Rounded as a number times a tensor is: by single precision, once.
        guided = without + (scales * (with_prompt - without)).to(noise.dtype)
        return torch.cat([guided, alone]) if len(alone) else guided

    def _numbers(
        self, slots: Sequence[RowSource], layout: RowLayout, steering: Sequence[float], *, like: torch.Tensor
    ) -> torch.Tensor:
        """Return all numbers of a call as one tensor, copied at once: timesteps, guidance scales, ControlNets' scales.

        Single precision is what the UNet makes of timesteps first of all.
        """
        timesteps = [slot.timestep for slot in slots]
        numbers = [timesteps[number] for number in layout.slot_of]
        numbers += steering
        for net in range(len(self._nets)):
            scales = [slot.net_scale(net) for slot in slots]
            numbers += [scales[number] for number in layout.slot_of]
        return _on(like.device, torch.tensor(numbers, dtype=torch.float32))

    def _conditions(self, slots: Sequence[RowSource], layout: RowLayout) -> dict[str, Any]:
        """Return what the rows are conditioned by: what it was in the last call, if they are of the same embeddings."""
        whose = [slot.unchanging for slot in slots]
        if None in whose:
            self._whole = None
            return self._put_together_of(slots, layout)
        if self._whole is not None and layout.is_as(self._whole[1]) and _are_same(whose, self._whole[0]):
            return dict(self._whole[2])
        found = self._put_together_of(slots, layout)
        self._whole = (whose, layout, found)
        return dict(found)

    def _put_together_of(self, slots: Sequence[RowSource], layout: RowLayout) -> dict[str, Any]:
        def rows(name: str) -> torch.Tensor:
            places = zip(layout.slot_of, layout.part_of, strict=True)
            return self._rows_of(name, [slots[number].embedded(name, part) for number, part in places])

        found: dict[str, Any] = {"encoder_hidden_states": rows("prompt_embeds")}
        ids = [slot.time_ids for slot in slots if slot.time_ids is not None]
        if ids:
            found["added_cond_kwargs"] = {
                "text_embeds": rows("pooled_prompt_embeds"),
                "time_ids": self._rows_of("time_ids", [ids[number] for number in layout.slot_of]),
            }
        return found

    def _rows_of(self, name: str, rows: list[torch.Tensor]) -> torch.Tensor:
        """Return rows as one tensor: that of the last call, if these are the very same."""
        before, made = self._put_together.get(name, ([], None))
        if made is None or not _are_same(before, rows):
            made = torch.cat(rows)
            self._put_together[name] = (rows, made)
        return made

    def _steered(
        self,
        slots: Sequence[RowSource],
        layout: RowLayout,
        given: Mapping[str, Any],
        scales: torch.Tensor,
        *,
        guess: bool,
    ) -> dict[str, Any]:
        """Return what the ControlNets add to the UNet, to each row by its own scale.

        Guessing, they are called for the conditional rows alone, every other one, and add nothing to the rest. One that
        is out of its share of the steps for all slots is not called.
        """
        between = guess and layout.guided > 0
        rows = slice(1, None, 2) if between else slice(None)
        asked = {name: _rows(value, rows) for name, value in given.items()}
        total: list[torch.Tensor] = []
        for net, controlnet in enumerate(self._nets):
            if not self._compiled and not any(slot.net_scale(net) for slot in slots):
                # Nothing times what it says: the same bits without it. What is compiled would be compiled anew.
                continue
            image = torch.cat([slots[number].images[net] for number in layout.slot_of[rows]])
            down, middle = controlnet(**asked, controlnet_cond=image, conditioning_scale=1.0, return_dict=False)
            own = scales[net][rows].reshape(-1, 1, 1, 1)
            residuals = [*down, middle]
            factors = torch.ones(len(residuals))
            if guess and not controlnet.config.global_pool_conditions:
                # As ControlNets have it: a tenth for the first, one for the last.
                factors = torch.logspace(-1, 0, len(residuals))
            added = [
                (residual * (own * factor)).to(residual.dtype)
                for residual, factor in zip(residuals, factors.tolist(), strict=True)
            ]
            total = [one + more for one, more in zip(total, added, strict=True)] if total else added
        if not total:
            return {}
        if between:
            total = [torch.stack([torch.zeros_like(part), part], dim=1).flatten(0, 1) for part in total]
        return {"down_block_additional_residuals": total[:-1], "mid_block_additional_residual": total[-1]}


def _guided_one_by_one(noise: torch.Tensor, scales: torch.Tensor, slots: Sequence[RowSource]) -> torch.Tensor:
    """Guide each slot by all of its prompts: by two rows, to the same bits as those of a call of pairs.

    Composable Diffusion (Liu et al., 2022, equation 11), with the guidance scale in each weight, as the web UI has it.
    """
    found: list[torch.Tensor] = []
    at = steered = 0
    for slot in slots:
        total = noise[at : at + 1].clone()
        for row in range(1, slot.rows):
            scale = scales[steered : steered + 1]
            total = total + (scale * (noise[at + row : at + row + 1] - noise[at : at + 1])).to(noise.dtype)
            steered += 1
        found.append(total)
        at += slot.rows
    return torch.cat(found)


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Tell whether these are the very same things."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _rows(value: Any, rows: slice) -> Any:
    """Return these rows of a tensor, or of each in a dictionary."""
    return {name: one[rows] for name, one in value.items()} if isinstance(value, dict) else value[rows]


def _on(device: torch.device, values: torch.Tensor) -> torch.Tensor:
    """Copy a small tensor to the device without waiting for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
