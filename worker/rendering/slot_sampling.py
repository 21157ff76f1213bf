"""The samplers of slots: one Diffusers scheduler for those that are in the same state, over their latents stacked.

A scheduler's step costs the same for one picture and for eight: a dozen small operations. Pictures that joined at the
same call with the same settings share one as long as they go on together. Its arithmetic goes value by value, so that
no bit of a picture depends on whether it shares.
"""

import functools
import inspect
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor

from storage.spec.picture import Spec
from worker.rendering.denoised import StepMade
from worker.rendering.mended_schedulers import (
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    ThirdOrderSDEScheduler,
)
from worker.rendering.samplers import make_scheduler
from worker.rendering.timesteps import copied

Member = TypeVar("Member")

#: Classes whose state is known to be what `copied` and `_rows` take it for, and whose steps go value by value.
_SHARED = (
    *(DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, LCMScheduler),
    *(LMSDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler),
    *(DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, ThirdOrderSDEScheduler),
    *(KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler),
)
#: Of UniPC, higher orders multiply matrices, whose bits depend on their sizes.
_HIGHEST_ORDER = 2
#: Schedulers that have their timesteps: a few kilobytes and, of Karras' noise, milliseconds each.
_CAPACITY = 64


@functools.cache
def _taken(kind: Any) -> frozenset[str]:
    """Return the names of what a class's steps are given: reading a signature takes as long as a step."""
    return frozenset(inspect.signature(kind.step).parameters)


def _can_be_shared(scheduler: Any) -> bool:
    settings = scheduler.config
    if isinstance(scheduler, PNDMScheduler) and not settings["skip_prk_steps"]:
        # It adds to its state in place.
        return False
    if isinstance(scheduler, UniPCMultistepScheduler) and settings["solver_order"] > _HIGHEST_ORDER:
        return False
    return type(scheduler) in _SHARED


class FreshSchedulers:
    """Schedulers that have their timesteps and took no step yet, for the slots of one model."""

    def __init__(self, own: Any, *, begins_at_first: bool, sdxl: bool = False) -> None:
        """
        Args:
            own: the model's own scheduler.
            begins_at_first: whether each is told to begin at its first timestep, as SDXL's pipeline does.
            sdxl: whether the model is of SDXL's kind.
        """
        self._own = own
        self._sdxl = sdxl
        self._begins_at_first = begins_at_first
        self._made: OrderedDict[tuple[str | None, int], Any] = OrderedDict()

    def get(self, sampler: str | None, steps: int) -> Any:
        """Return one that is the caller's alone. Raises ValueError for steps that it cannot take."""
        key = (sampler, steps)
        if key in self._made:
            self._made.move_to_end(key)
            return copied(self._made[key])
        scheduler = make_scheduler(sampler, self._own, sdxl=self._sdxl)
        # On the CPU: read back from a device, each timestep would make it wait.
        scheduler.set_timesteps(steps, device="cpu")
        if self._begins_at_first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        if not _can_be_shared(scheduler):
            return scheduler
        self._made[key] = scheduler
        while len(self._made) > _CAPACITY:
            self._made.popitem(last=False)
        return copied(scheduler)


class SlotSampler(Generic[Member]):
    """A scheduler and the latents that it steps, (n, channels, height, width): one of them for each member."""

    def __init__(
        self, scheduler: Any, latents: torch.Tensor, generators: Sequence[torch.Generator], eta: float
    ) -> None:
        self.scheduler = scheduler
        self.latents = latents
        self.timesteps = scheduler.timesteps
        #: The same as numbers: asking a tensor for its length, or for one of them, takes microseconds each time.
        self.times: Sequence[float] = scheduler.timesteps.tolist()
        #: How many steps were taken.
        self.made = 0
        #: Of the last one, if it was not taken back: what tells how its pictures look.
        self.last: StepMade | None = None
        self.generators = list(generators)
        kind: Any = type(scheduler)
        taken = _taken(kind)
        self._given: dict[str, Any] = {"eta": eta} if "eta" in taken else {}
        self._draws = "generator" in taken
        #: A member that nobody holds any more must not be held by its neighbours.
        self.members: list[weakref.ref[Member]] = []

    @classmethod
    def begun(cls, scheduler: Any, spec: Spec, shape: Sequence[int], like: torch.Tensor) -> "SlotSampler[Member]":
        """Return the sampler of one picture with its noise, in the precision and on the device of a tensor."""
        # On the CPU, so that a seed means the same noise on every device.
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        noise = randn_tensor((1, *shape), generator=generator, device=like.device, dtype=like.dtype)
        latents = noise * scheduler.init_noise_sigma
        return cls(scheduler, latents, [generator], 0.0 if spec.eta is None else spec.eta)

    def add(self, member: Member) -> None:
        """Name the member whose latents are the next ones."""
        self.members.append(weakref.ref(member))

    def place(self, member: Member) -> int:
        """Return which latents are a member's."""
        return next(place for place, found in enumerate(self.members) if found() is member)

    @property
    def can_be_joined(self) -> bool:
        return self.made == 0 and _can_be_shared(self.scheduler)

    def join(self, others: "Sequence[SlotSampler[Member]]") -> None:
        """Take over the members of others with the same settings, none of which took a step."""
        if not others:
            return
        self.latents = torch.cat([self.latents, *(other.latents for other in others)])
        for other in others:
            self.generators += other.generators
            self.members += other.members

    def apart(self, places: Sequence[int]) -> "SlotSampler[Member]":
        """Return a sampler of its own, in the same state, for the members at these places."""
        scheduler = copied(self.scheduler) if _can_be_shared(self.scheduler) else self.scheduler
        state = vars(scheduler)
        for name, value in state.items():
            if isinstance(value, list):
                state[name] = [self._rows(one, places) for one in value]
            else:
                state[name] = self._rows(value, places)
        made: SlotSampler[Member] = SlotSampler(
            scheduler, self._rows(self.latents, places), [self.generators[place] for place in places], 0.0
        )
        made.last = None if self.last is None else self.last.rows(places)
        made.made, made._given, made._draws = self.made, self._given, self._draws
        made.members = [self.members[place] for place in places]
        return made

    def model_input(self) -> torch.Tensor:
        """Return what the UNet is given of the latents at this step; nothing changes by it."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return self.latents
        scaled: torch.Tensor = self.scheduler.scale_model_input(self.latents, self.timesteps[self.made])
        return scaled

    def step(self, noise: torch.Tensor) -> None:
        """Take a step by the noise that was predicted, (n, channels, height, width)."""
        drawn = {"generator": self.generators} if self._draws else {}
        timestep, before = self.timesteps[self.made], self.latents
        stepped = self.scheduler.step(noise, timestep, before, **self._given, **drawn, return_dict=False)[0]
        self.latents = stepped.to(before.dtype)
        self.last = StepMade(predicted=noise, latents=before, timestep=timestep, index=self.made)
        self.made += 1

    def state(self) -> Any:
        """Return what `restore` makes of this sampler again what it is now."""
        kept = dict(vars(self.scheduler))
        in_place = not _can_be_shared(self.scheduler)
        kept |= {name: _kept(value, in_place=in_place) for name, value in kept.items() if _may_change(value)}
        drawn = [generator.get_state() for generator in self.generators] if self._draws else []
        return kept, drawn, self.latents, self.made

    def restore(self, state: Any) -> None:
        kept, drawn, self.latents, self.made = state
        self.last = None
        vars(self.scheduler).clear()
        vars(self.scheduler).update(kept)
        for generator, one in zip(self.generators, drawn, strict=False):
            generator.set_state(one)

    def _rows(self, value: Any, places: Sequence[int]) -> Any:
        """Return these rows of what is stacked as the latents are; anything else as it is."""
        if isinstance(value, torch.Tensor) and value.shape == self.latents.shape:
            return value[list(places)]
        return value


def _may_change(value: Any) -> bool:
    return isinstance(value, (list, torch.Tensor))


def _kept(value: Any, *, in_place: bool) -> Any:
    """Copy what a step may change: lists, and tensors of a class that may change them in place."""
    if isinstance(value, list):
        return list(value)
    return value.clone() if in_place and isinstance(value, torch.Tensor) and value.dim() > 1 else value
