"""Prompts that change between steps, and that are put together, are drawn as a loop of this file's own draws them.

The texts of each call are written by hand, and encoded and guided here, step by step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import BadSpecification, RenderFailed
from storage.spec.picture import Spec
from tests.pipelines.conftest import Models
from tests.pipelines.pixels import largest_difference, pixels
from tests.pipelines.slots import array, assert_replays, loop_of, rendered
from worker.rendering.backend import LoadedModel
from worker.rendering.samplers import make_scheduler
from worker.rendering.webui_weights import weighted_together

Loader = Callable[[str], LoadedModel]
#: A text as its words and their weights.
Words = tuple[tuple[str, float], ...]
#: Until which step, from 1, a text is drawn, and the text.
Texts = Sequence[tuple[int, Words]]


def plain(text: str) -> Words:
    return ((text, 1.0),)


def place(texts: Texts, call: int) -> int:
    """Return which text the web UI draws at a call, counted from 0, for which it compares the number as it is."""
    return [call <= until for until, _ in texts].index(True)


class Reference:
    """One pipeline, called row by row."""

    def __init__(self, model: Any, spec: Spec) -> None:
        self.pipeline, self.spec = model.pipeline, spec
        self.own_scheduler = model.own_scheduler
        self.is_xl = hasattr(self.pipeline, "text_encoder_2")

    def encoded(self, schedule: Texts) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Encode the texts of a whole schedule, equal ones too: they keep a common mean."""
        texts = [text for _, text in schedule]
        parts = [(self.pipeline.tokenizer, self.pipeline.text_encoder)]
        if self.is_xl:
            parts.append((self.pipeline.tokenizer_2, self.pipeline.text_encoder_2))
        columns = []
        pooled: Any = None
        for tokenizer, encoder in parts:
            ids, factors = zip(*(self._tokens(tokenizer, text) for text in texts), strict=True)
            found = encoder(torch.tensor(ids), output_hidden_states=True)
            skip = self.spec.clip_skip or 0
            if self.is_xl:
                states, pooled = found.hidden_states[-2 - skip], found[0]
            else:
                states = encoder.final_layer_norm(found.hidden_states[-1 - skip]) if skip else found[0]
            weighted = states * torch.tensor(factors)[:, :, None]
            if states.mean().abs() > 0.01 * states.std():
                weighted = weighted * (states.mean() / weighted.mean())
            columns.append(weighted)
        rows = torch.cat(columns, dim=-1)
        return [(rows[at : at + 1], None if pooled is None else pooled[at : at + 1]) for at in range(len(texts))]

    @staticmethod
    def _tokens(tokenizer: Any, words: Words) -> tuple[list[int], list[float]]:
        ids, factors = [tokenizer.bos_token_id], [1.0]
        for text, weight in words:
            own = tokenizer(text, add_special_tokens=False).input_ids
            ids += own
            factors += [weight] * len(own)
        ids.append(tokenizer.eos_token_id)
        assert len(ids) <= 77
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        return ids, factors + [1.0] * (77 - len(factors))

    @torch.inference_mode()
    def drawn(self, prompts: Sequence[tuple[float, Texts]], negative: Texts | None) -> Any:
        """Draw the picture.

        Args:
            prompts: those that steer it together, and their weights.
            negative: None: zeros.
        """
        spec, pipeline = self.spec, self.pipeline
        scheduler = make_scheduler(spec.sampler, self.own_scheduler)
        scheduler.set_timesteps(spec.num_inference_steps)
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        size = (1, 4, spec.height // pipeline.vae_scale_factor, spec.width // pipeline.vae_scale_factor)
        latents = torch.randn(size, generator=generator) * scheduler.init_noise_sigma
        steering = [(weight, texts, self.encoded(texts)) for weight, texts in prompts]
        away = None if negative is None else self.encoded(negative)
        for call, timestep in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(latents, timestep)
            rows = [encoded[place(texts, call)] for _, texts, encoded in steering]
            if spec.guidance_scale > 1:
                zeros = tuple(None if part is None else torch.zeros_like(part) for part in rows[0])
                without = self._noise(given, timestep, away[place(negative or (), call)] if away else zeros)
                noise = without.clone()
                for (weight, _, _), row in zip(steering, rows, strict=True):
                    noise += weight * spec.guidance_scale * (self._noise(given, timestep, row) - without)
            else:
                noise = self._noise(given, timestep, rows[0])
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
        image = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample[0]
        return ((image / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.int16)

    def _noise(self, latents: torch.Tensor, timestep: torch.Tensor, row: Any) -> torch.Tensor:
        states, pooled = row
        side = (self.spec.height, self.spec.width)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[*side, 0.0, 0.0, *side]])} if self.is_xl else None
        found: torch.Tensor = self.pipeline.unet(
            latents, timestep, encoder_hidden_states=states, added_cond_kwargs=added
        ).sample
        return found


def specified(models: Models, alias: str, prompt: str, negative: str = "", **fields: Any) -> Spec:
    asked = {"sampler": "euler", "num_inference_steps": 4, "negative_prompt": negative, "prompt_weighting": "webui"}
    return models.specs(alias, 1, prompt=prompt, **(asked | fields))[0]


def turns(*texts: str, steps: int) -> Texts:
    return [(step, plain(texts[(step - 1) % len(texts)])) for step in range(1, steps + 1)]


RED, BLUE, NOTHING = plain("a red star"), plain("a blue star"), [(99, plain(""))]
LATER_BLUE = [(2, RED), (4, BLUE)]
#: Model, prompt, negative prompt, other fields; the prompts that steer it, with their weights, and the negative one.
CASES: list[tuple[str, str, str, dict[str, Any], list[tuple[float, Texts]], Texts | None]] = [
    ("sd", "a [red:blue:2] star", "", {}, [(1, LATER_BLUE)], NOTHING),
    ("sd", "a [red:blue:2] star", "", {"clip_skip": 1}, [(1, LATER_BLUE)], NOTHING),
    ("sd", "a [red:blue:2] star", "", {"guidance_scale": 1.0}, [(1, LATER_BLUE)], None),
    ("sd", "a [red:blue:.5] star", "[a:b:1]", {}, [(1, LATER_BLUE)], [(1, plain("a")), (4, plain("b"))]),
    ("sd", "[(a:1.5):b:2]", "[a|b]", {}, [(1, [(2, (("a", 1.5),)), (4, plain("b"))])], turns("a", "b", steps=4)),
    ("sd", "[a|b|c]", "", {"num_inference_steps": 5}, [(1, turns("a", "b", "c", steps=5))], NOTHING),
    # Two steps that call the model three times, and six times, are counted as four and as eight.
    ("sd", "[a|b]", "", {"sampler": "heun", "num_inference_steps": 2}, [(1, turns("a", "b", steps=4))], NOTHING),
    ("sd", "a [red:blue:.25] star", "", {"sampler": "heun"}, [(1, [(2, RED), (8, BLUE)])], NOTHING),
    (
        "sd",
        "a red star :0.7 AND a blue star :-0.3",
        "a",
        {},
        [(0.7, [(4, RED)]), (-0.3, [(4, BLUE)])],
        [(4, plain("a"))],
    ),
    ("sd", "[a|b] AND (c:1.5)", "", {}, [(1, turns("a", "b", steps=4)), (1, [(4, (("c", 1.5),))])], NOTHING),
    ("sd", "a red star :1.3", "", {"sampler": "ddim"}, [(1.3, [(4, RED)])], NOTHING),
    ("sdxl", "a [red:blue:2] star", "", {}, [(1, LATER_BLUE)], None),
    ("sdxl", "a [red:blue:2] star", "[b:1]", {}, [(1, LATER_BLUE)], [(1, plain("")), (4, plain("b"))]),
    ("sdxl", "a red star AND [a|b] :0.5", "", {}, [(1, [(4, RED)]), (0.5, turns("a", "b", steps=4))], None),
]


@pytest.mark.parametrize(("alias", "prompt", "negative", "fields", "prompts", "away"), CASES)
def test_a_picture_has_at_each_call_the_words_that_the_web_ui_gives_it(
    models: Models,
    loaded: Loader,
    alias: str,
    prompt: str,
    negative: str,
    fields: dict[str, Any],
    prompts: list[tuple[float, Texts]],
    away: Texts | None,
) -> None:
    spec = specified(models, alias, prompt, negative, **fields)
    model, loop = loaded(alias), loop_of(loaded(alias))
    beside = specified(models, alias, "a plain (star:1.1)", num_inference_steps=2)
    picture, _ = rendered(loop, [spec, beside])
    expected = Reference(model, spec).drawn(prompts, away)
    assert largest_difference(array(picture), expected) <= 1
    assert_replays(loop, spec, picture)
    # Where pictures go batch by batch, it is drawn alone.
    [alone, with_plain] = pixels(model, [spec, spec.model_copy(update={"prompt": "a plain star"})])
    assert largest_difference(alone, expected) <= 1
    assert largest_difference(alone, with_plain) > 1


# -- beside others ---------------------------------------------------------------------------------------------


def test_pictures_whose_words_change_at_other_steps_share_their_calls(models: Models, loaded: Loader) -> None:
    prompts = ["a [red:blue:1] star", "[a|b|c]", "a star", "a AND b :0.5 AND c", "a [red:blue:0.5] star"]
    specs = [
        specified(models, "sd", prompt, num_inference_steps=2 + number % 3, guidance_scale=5.0 if number != 1 else 1.0)
        for number, prompt in enumerate(prompts)
    ]
    loop: Any = loop_of(loaded("sd"))
    slots = [loop.admit(spec) for spec in specs]
    calls: list[int] = []
    handle = loaded("sd").pipeline.unet.register_forward_hook(  # type: ignore[attr-defined]
        lambda _module, _args, _kwargs, found: calls.append(len(found[0])), with_kwargs=True
    )
    try:
        while left := [slot for slot in slots if slot.made < slot.calls]:
            loop.tick(left)
    finally:
        handle.remove()
    # Two rows, one without guidance, two, four for three prompts, two: filled up. Then they leave one after the other.
    assert calls == [12, 12, 6, 2]
    for spec, picture in zip(specs, loop.develop(slots), strict=True):
        assert_replays(loop, spec, picture)
        [alone] = rendered(loop, [spec])
        assert largest_difference(array(alone), array(picture)) <= 1


def test_prompts_of_unequal_length_are_filled_up_to_the_longest(models: Models, loaded: Loader) -> None:
    long = "a very long story, " * 12
    loop: Any = loop_of(loaded("sd"))
    one = loop.admit(specified(models, "sd", f"[a:{long}:2]"))
    other = loop.admit(specified(models, "sd", f"a AND {long}", "[a:b:2]"))
    negative = loop.admit(specified(models, "sd", "[a:b:2]", long))
    unguided = loop.admit(specified(models, "sd", "[a:b:2]", long, guidance_scale=1.0))
    assert one.length == other.length == negative.length > 77
    assert unguided.length == 77
    [first] = [slot.embedded("prompt_embeds", 0) for slot in (other,)]
    # A prompt beside a longer one repeats its last token; what is before a change is filled up with empty chunks.
    assert torch.equal(first[:, 77:], first[:, 76:77].expand(-1, first.shape[1] - 77, -1))
    empty = loop.admit(specified(models, "sd", "[:a:2]")).embedded("prompt_embeds", 0)
    assert torch.allclose(one.embedded("prompt_embeds", 0)[:, 77:154], empty, atol=1e-6)
    assert torch.allclose(negative.embedded("prompt_embeds", 0)[:, 77:154], empty, atol=1e-6)


def test_pictures_with_the_same_words_keep_their_own_sizes(models: Models, loaded: Loader) -> None:
    model: Any = loaded("sdxl")
    loop, sizes, given = loop_of(model), ([512, 256], [64, 1024]), []
    slots = [loop.admit(specified(models, "sdxl", "a star AND b :0.5", original_size=size)) for size in sizes]
    handle = model.pipeline.unet.register_forward_pre_hook(
        lambda _module, _args, kwargs: given.append(kwargs["added_cond_kwargs"]["time_ids"][:, :2].tolist()),
        with_kwargs=True,
    )
    try:
        for slot in (*slots, *slots):
            # The words of both are the very same tensors.
            loop.tick([slot])
    finally:
        handle.remove()
    assert given == [[list(map(float, size))] * 3 for size in (*sizes, *sizes)]


@pytest.mark.parametrize("alias", ["sd-control", "sdxl-control"])
def test_controlnets_steer_pictures_whose_words_change(models: Models, loaded: Loader, alias: str) -> None:
    loop = loop_of(loaded(alias))
    specs = [
        specified(models, alias, prompt, control_guidance_end=0.5)
        for prompt in (
            "a (red:1.1) star",
            "a [(red:1.1):blue:9] star",
            "a [red:blue:1] star",
            "a (red:1.1) star AND b:0",
        )
    ]
    same, changed, other, weightless = (array(picture) for picture in rendered(loop, specs))
    assert largest_difference(same, changed) <= 1
    assert largest_difference(same, weightless) <= 1
    assert largest_difference(same, other) > 1


def test_what_cannot_be_drawn_so_is_refused(models: Models, loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = specified(models, "sd-control", "a AND b")
    with pytest.raises(BadSpecification, match="guess_mode"):
        specified(models, "sd-control", "a AND b", guess_mode=True)
    loop: Any = loop_of(loaded("sd-control"))
    # A ControlNet that guesses by itself.
    monkeypatch.setattr(loop._unet, "_pools", True)
    with pytest.raises(RenderFailed, match="prompts cannot be put together by AND where ControlNets guess"):
        loop.admit(composed)
    monkeypatch.setattr("worker.rendering.pipeline.has_slots", lambda _pipeline: False)
    with pytest.raises(RenderFailed, match="StableDiffusionPipeline has its own denoising loop"):
        pixels(loaded("sd"), [specified(models, "sd", "[a|b]")])


@torch.inference_mode()
def test_a_second_attempt_in_single_precision_has_the_same_words(models: Models, loaded: Loader) -> None:
    model: Any = loaded("sd")
    spec = specified(models, "sd", "[a|b] AND a :0.5", "[c:d:1]", sampler="dpm2", num_inference_steps=3)
    [picture] = rendered(loop_of(model), [spec])
    [again] = model._again_in_single_precision([spec]).pictures
    assert largest_difference(array(picture), np.asarray(again).astype(np.int16)) <= 1
    assert_replays(loop_of(model), spec, picture)


def test_the_texts_of_one_prompt_keep_a_common_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, 77, 8, generator=generator) + shift for shift in (0.5, 1.5))
    weights = [[1.0, 2.0, *[1.0] * 75], [1.0, 0.5, *[1.0] * 75]]
    found = weighted_together([one, other], weights, [3, 1])
    batch = torch.cat([one, one, one, other])
    factors = torch.tensor([weights[0]] * 3 + [weights[1]])[:, :, None]
    expected = batch * factors * (batch.mean() / (batch * factors).mean())
    assert torch.allclose(torch.cat(list(found)), expected[2:], rtol=1e-5)


# -- long prompts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_a_long_prompt_is_cut_read_in_chunks_or_refused(models: Models, loaded: Loader, alias: str) -> None:
    model: Any = loaded(alias)
    long = "a very long (story), " * 12

    def encoded(prompt: str, **fields: Any) -> torch.Tensor:
        [spec] = models.specs(alias, 1, prompt=prompt, **fields)
        found: torch.Tensor = model._prompts.encoded(spec)["prompt_embeds"]
        return found

    assert torch.equal(encoded("a (star)", long_prompts="chunk"), encoded("a (star)"))
    assert torch.equal(encoded(f"{long} ends well", long_prompts="cut"), encoded(f"{long} ends dull"))
    well, ill = (encoded(f"{long} {end}", long_prompts="chunk") for end in ("ends well", "ends dull"))
    assert well.shape[1] > 77
    assert not torch.allclose(well, ill)
    negative = {"negative_prompt": long, "guidance_scale": 1.0, "long_prompts": "chunk"}
    assert encoded("a star", **negative).shape[1] == 77
    assert encoded("a star", **(negative | {"guidance_scale": 5.0})).shape[1] > 77
    # Where it is submitted, the tokenizer may not have been.
    [spec] = models.specs(alias, 1, prompt="a star", long_prompts="refuse")
    with pytest.raises(RenderFailed, match="prompt: the model .* reads 75 of its .* tokens; ignored from character"):
        loop_of(model).admit(spec.model_copy(update={"prompt": long}))
    with pytest.raises(RenderFailed, match="prompt: the model .* reads 75"):
        pixels(model, [spec, spec.model_copy(update={"prompt": long})])
