"""The embeddings of one picture at each step of its denoising: prompts in the web UI's language change between them.

Several prompts may steer a picture at once (`AND`): each has a row of every call of the UNet.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from storage.spec.webui_schedules import Schedule, place_at, prompts, schedule
from worker.rendering.webui_weights import Encoder, weighted_together

#: A picture's embeddings by the names of the pipeline's arguments, each with a batch of one.
Embeddings = Mapping[str, torch.Tensor]

_NEGATIVE = "negative_"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The embeddings of one prompt's texts, all equally long."""

    found: Schedule
    by_text: Mapping[str, Embeddings]

    def at(self, call: int) -> Embeddings:
        """Return what is drawn at a call, counted from 0."""
        return self.by_text[self.found[place_at(self.found, call)][1]]

    @property
    def length(self) -> int:
        """How many tokens they have."""
        return next(iter(self.by_text.values()))["prompt_embeds"].shape[1]

    def each(self, change: Callable[[Embeddings], Embeddings]) -> "Timeline":
        """Return it with the embeddings of each text changed."""
        return Timeline(found=self.found, by_text={text: change(one) for text, one in self.by_text.items()})


@dataclass(frozen=True, kw_only=True)
class PromptSteps:
    """What steers a picture at each call of the UNet, and what it is steered away from."""

    #: The prompts that steer it together, and their weights.
    prompts: Sequence[Timeline]
    weights: Sequence[float]
    negative: Timeline | None

    @classmethod
    def unchanging(cls, embeddings: Embeddings) -> "PromptSteps":
        """Return those of a prompt, and a negative one if they are there, that stay the same."""
        positive = {name: value for name, value in embeddings.items() if not name.startswith(_NEGATIVE)}
        negative = {
            name.removeprefix(_NEGATIVE): value for name, value in embeddings.items() if name.startswith(_NEGATIVE)
        }
        always = ((0, ""),)
        return cls(
            prompts=[Timeline(found=always, by_text={"": positive})],
            weights=(1.0,),
            negative=Timeline(found=always, by_text={"": negative}) if negative else None,
        )

    @property
    def is_unchanging(self) -> bool:
        """Whether the embeddings are the same at all calls."""
        timelines = self.prompts if self.negative is None else [*self.prompts, self.negative]
        return all(len(timeline.found) == 1 for timeline in timelines)

    @property
    def length(self) -> int:
        """How many tokens the embeddings have, at all steps."""
        return self.prompts[0].length

    def at(self, call: int, part: int | None) -> Embeddings:
        """Return the embeddings of one of the prompts at a call (from 0); None: of the negative one."""
        timeline = self.negative if part is None else self.prompts[part]
        if timeline is None:
            raise ValueError("without guidance there is no negative prompt")
        return timeline.at(call)


def composed(
    encoders: Sequence[Encoder],
    prompt: str,
    negative_prompt: str | None,
    *,
    steps: int,
    dtype: torch.dtype,
    empty_is_zeros: bool,
) -> PromptSteps:
    """Return the embeddings of a prompt and a negative one in the web UI's language, for a number of steps.

    Prompts of fewer chunks than others beside them repeat their last token; prompts and negative ones are then filled
    up with empty chunks, as by the web UI's setting "Pad prompt/negative prompt".

    Args:
        negative_prompt: None: the picture is not guided.
        empty_is_zeros: no negative prompt means zeros.
    """
    parts = prompts(prompt)
    timelines = [_encoded(encoders, schedule(text, steps)) for text, _ in parts]
    most = max(timeline.length for timeline in timelines)
    timelines = [_repeated(timeline, most - timeline.length) for timeline in timelines]
    negative = None if negative_prompt is None else _encoded(encoders, schedule(negative_prompt, steps))
    if negative is not None:
        longest = max(most, negative.length)
        timelines = [_filled(encoders, timeline, longest - timeline.length) for timeline in timelines]
        negative = _filled(encoders, negative, longest - negative.length)
        if empty_is_zeros and not any(negative.by_text):
            negative = negative.each(lambda one: {name: torch.zeros_like(value) for name, value in one.items()})

    def converted(one: Embeddings) -> Embeddings:
        return {name: value.to(dtype) for name, value in one.items()}

    return PromptSteps(
        prompts=[timeline.each(converted) for timeline in timelines],
        weights=[weight for _, weight in parts],
        negative=None if negative is None else negative.each(converted),
    )


def _encoded(encoders: Sequence[Encoder], found: Schedule) -> Timeline:
    """Encode the texts of a schedule, as one batch of the web UI's: equally long, and with a common mean."""
    counts = Counter(text for _, text in found)
    columns: dict[str, list[torch.Tensor]] = {text: [] for text in counts}
    pooled: dict[str, torch.Tensor] = {}
    chunks = [{text: encoder.chunks(text) for text in counts} for encoder in encoders]
    most = max(len(of_text) for of_encoder in chunks for of_text in of_encoder.values())
    for encoder, of_texts in zip(encoders, chunks, strict=True):
        rows: dict[str, list[torch.Tensor]] = {text: [] for text in counts}
        for place in range(most):
            own = [of_text[place] if place < len(of_text) else [] for of_text in of_texts.values()]
            encoded = [encoder.states(chunk, normed=len(encoders) == 1) for chunk in own]
            factors = [encoder.factors(chunk) for chunk in own]
            states = weighted_together([states for states, _ in encoded], factors, list(counts.values()))
            for text, weighted, (_, first) in zip(counts, states, encoded, strict=True):
                rows[text].append(weighted)
                if place == 0:
                    pooled[text] = first
        for text in counts:
            columns[text].append(torch.cat(rows[text], dim=1))
    of_text: dict[str, Embeddings] = {text: {"prompt_embeds": torch.cat(columns[text], dim=-1)} for text in counts}
    if len(encoders) > 1:
        # Those of the second encoder, the last one that was asked.
        of_text = {text: {**one, "pooled_prompt_embeds": pooled[text]} for text, one in of_text.items()}
    return Timeline(found=found, by_text=of_text)


def _repeated(timeline: Timeline, tokens: int) -> Timeline:
    if not tokens:
        return timeline
    return timeline.each(lambda one: _lengthened(one, one["prompt_embeds"][:, -1:].repeat(1, tokens, 1)))


def _filled(encoders: Sequence[Encoder], timeline: Timeline, tokens: int) -> Timeline:
    if not tokens:
        return timeline
    empty = _encoded(encoders, ((1, ""),)).by_text[""]["prompt_embeds"]
    more = empty.repeat(1, tokens // empty.shape[1], 1)
    return timeline.each(lambda one: _lengthened(one, more))


def _lengthened(one: Embeddings, more: torch.Tensor) -> Embeddings:
    return {**one, "prompt_embeds": torch.cat([one["prompt_embeds"], more], dim=1)}
