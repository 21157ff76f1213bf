"""How far a pipeline reads a prompt, seen in what its denoiser is given, beside what is said of it."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from scheduler.intake.submit import SpecifiedJobs
from storage.errors import BadSpecification, RenderFailed
from storage.jobs.values import NewJob
from storage.spec.picture import Spec
from storage.spec.profiles import family_of, profile_of
from storage.spec.prompt_length import unread
from tests.pipelines.tried import Tried
from worker.rendering.backend import Abandoned
from worker.rendering.unread import unread_words

#: For each family of profiles.toml, the architecture that is tried for it.
TRIED: Mapping[str, str] = {
    "sd": "StableDiffusion",
    "sdxl": "StableDiffusionXL",
    "lcm": "LatentConsistencyModel",
    "kandinsky22": "Kandinsky",
    "kandinsky3": "Kandinsky3",
    "deepfloyd": "IF",
    "sd3": "StableDiffusion3",
    "flux-dev": "Flux",
    "flux-kontext": "FluxKontext",
    "flux2-dev": "Flux2",
    "flux2-klein": "Flux2Klein",
    "chroma": "Chroma",
    "qwen-image": "QwenImage",
    "qwen-image-21": "QwenImage21",
    "z-image": "ZImage",
    "sana": "Sana",
    "pixart-sigma": "PixArt",
    "pixart-alpha": "PixArtAlpha",
    "lumina2": "Lumina2",
    "lumina-next": "Lumina",
    "auraflow": "AuraFlow",
    "hunyuan": "HunyuanDiT",
    "cogview3": "CogView3",
    "cogview4": "CogView4",
    "krea2": "Krea2",
    "ovis": "OvisImage",
    "nucleus": "NucleusMoE",
    "prx": "PRX",
    "glm-image": "GlmImage",
    "ideogram": "Ideogram4",
    "ernie-image": "ErnieImage",
}
#: Words, longer than what any of them reads; and letters beyond what one reads.
LENGTH, BEYOND = 4500, 20
#: Of templates' heads, which pipelines drop again by the number of the real tokenizer's tokens, those of the tests make
#: so many more.
BYTES_OF_HEADS = {"qwen-image": 147, "krea2": 147, "ovis": 106}
#: Words may be said to be unread that are read, no more than these: a mark that the tests' tokenizers have not.
MARKS = 1
#: What the names of denoisers and priors hold; of GLM-Image, a language model draws lots for what it writes.
READERS = ("unet", "transformer", "prior_prior", "vision_language_encoder")
STEPS = {"num_inference_steps": 4, "guidance_scale": 5.0}


def check_cut(name: str, tried: Tried, field: str) -> None:
    """Assert that the first letter that is said to be ignored is, and that the one before it is read.

    Of the tests' tokenizers a letter is a token. What comes before is read if that one is.
    """
    pipeline = tried.model.pipeline
    profile = profile_of(type(pipeline).__name__)
    assert profile is not None
    assert family_of(type(pipeline).__name__) == TRIED[name]
    if (words := _asked(tried, field, "q " * LENGTH)) is None:
        return
    at_the_door = [end for end in unread(words, tried.registry["m"]) if end.field == field]
    told = [end for end in unread_words(pipeline, words, "m") if end.field == field]
    if not told:
        assert profile.beyond == "read"
        assert at_the_door == []
        assert _is_read(tried, field, at=LENGTH - 1, length=LENGTH)
        return
    [end] = told
    # T5 begins each text with a token of its own. Of one long word the tokens that are read are counted, too.
    room = end.room - BYTES_OF_HEADS.get(name, 0) - (1 if profile.encoders[-1].endswith("T5") else 0)
    assert _is_read(tried, field, at=room - 1, length=room + BEYOND)
    # Of what T5 makes of a whole negative prompt Kandinsky 3 takes the beginning.
    mixed = profile.negative_room == "one more" and field == "negative_prompt"
    assert _is_read(tried, field, at=room + MARKS, length=room + BEYOND) is mixed
    if profile.negative_room == "own" or field == "prompt":
        # What the door is sure of is ignored, but for what the worker's tokenizer knows to stand around a prompt.
        assert [one.room for one in at_the_door if one.room >= end.room]
    else:
        assert any(remark.startswith(f"{field}: ") for remark in tried.said(words))


def check_failure(tried: Tried) -> None:
    """Assert that a prompt with which a pipeline fails is refused at the door, or by the worker in words."""
    too_long = "prompt: has (more than )?4500 tokens, and the model m draws none of more than"
    submitted = SpecifiedJobs(iter([NewJob(spec=tried.spec(prompt="q " * LENGTH))]), tried.registry)
    with pytest.raises(BadSpecification, match=too_long):
        next(submitted)
    with pytest.raises(RenderFailed, match=too_long) as refused:
        tried.together([tried.spec(prompt="q" * LENGTH)])
    room = int(re.findall(r"none of more than (\d+)", str(refused.value))[0])
    assert _given(tried, tried.spec(prompt="q" * room))


def _asked(tried: Tried, field: str, text: str) -> Spec | None:
    """Return a picture with this text."""
    return tried.accepted(**{**STEPS, field: text})


def _is_read(tried: Tried, field: str, *, at: int, length: int) -> bool:
    """Tell whether another letter at a place of a text changes what the denoiser is given."""
    letters = ["q"] * length
    found = []
    for letter in "qz":
        letters[at] = letter
        spec = _asked(tried, field, "".join(letters))
        assert spec is not None
        found.append(_given(tried, spec))
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(*found, strict=True))


def _given(tried: Tried, spec: Spec) -> list[torch.Tensor]:
    """Return all tensors that the first step's calls of denoisers, and of priors, are given."""
    found: list[torch.Tensor] = []

    def note(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value.detach().clone())
        elif isinstance(value, (list, tuple)):
            for each in value:
                note(each)
        elif isinstance(value, dict):
            note(list(value.values()))

    def abandon() -> None:
        raise Abandoned

    pipelines = (tried.model.pipeline, tried.model._denoiser)
    parts = {
        part
        for pipeline in pipelines
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module) and any(word in name for word in READERS)
    }
    hooks = [
        part.register_forward_pre_hook(lambda _, given, named: note([given, named]), with_kwargs=True) for part in parts
    ]
    try:
        tried.together([spec], abandon)
    except Abandoned:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
