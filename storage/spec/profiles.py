"""What a family of pipelines makes of a picture's fields, as data: `profiles.toml`, with a source for each value.

What its signatures say stands in `pipelines.json`. `tests/pipelines/test_profiles.py` compares both with the installed
Diffusers.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

#: Kinds of distilled models by the names that they go under.
Distilled = Literal["lcm", "turbo", "lightning", "hyper"]
DISTILLED: tuple[Distilled, ...] = get_args(Distilled)
#: Families whose distilled models are of the same class as others; what holds for these is known of them alone.
_DISTILLED_FAMILIES = ("StableDiffusion", "StableDiffusionXL")


class Distillation(BaseModel):
    """What a distilled model draws well with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The fewest steps and the most.
    steps: tuple[int, int]
    #: The largest `guidance_scale`.
    most_guidance: float
    samplers: tuple[str, ...]
    #: Defaults of a model's pictures.
    usual: Mapping[str, int | float | str]
    #: How samplers that have a choice place their timesteps.
    spacing: Literal["trailing"] | None = None


class Profile(BaseModel):
    """What pipelines of one family make of a picture's fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Whether the farm can draw with it; if not, nothing else is known of it.
    drawn: bool = True
    #: What `guidance_scale` means: away from a negative prompt, the same by another argument (`true_cfg_scale`), a
    #: number that the model is told, or one in place of a schedule.
    guidance: Literal["classifier-free", "true_cfg", "embedded", "schedule"] = "classifier-free"
    #: Guidance up to this one is none.
    off: float = 1
    #: Guidance below this is an error of the pipeline.
    least_guidance: float = 0
    #: How a negative prompt is taken: as text, as embeddings only, only beside `true_cfg_scale`, or not at all.
    negative: Literal["text", "embeddings", "true_cfg", "none"] = "text"
    #: What none is: the empty text, or zeros in place of its embeddings.
    no_negative: Literal["empty", "zeros"] = "empty"
    encoders: tuple[str, ...] = ()
    #: How many tokens of a prompt the longest of its encoders reads; None: as `beyond` says, or CLIP's 75.
    room: int | None = None
    #: What becomes of more: they are not read; those beyond what the tokenizer's own file says are not; the pipeline
    #: fails; there is no limit.
    beyond: Literal["cut", "tokenizer", "error", "read"] = "cut"
    #: How many of a negative prompt are read: as many as of a prompt; or as its own prompt has, in eights, or one more.
    negative_room: Literal["own", "in eights", "one more"] = "own"
    #: What stands around a prompt and takes of that room; "head": before it, and takes nothing of it; "formatted",
    #: "flux2": as those pipelines' own functions put it.
    template: Literal["none", "chat", "thinking", "system", "head", "formatted", "flux2"] = "none"
    #: What sides are multiples of, and what the pipeline itself does with others.
    multiple: int = 8
    odd_sizes: Literal["error", "rounded"] = "error"
    #: Width and height that its models were made for.
    native: tuple[int, int] = (512, 512)
    #: Of the native size's pixels the share that its models have seen at least.
    least_trained: float | None = None
    #: Half precision as its weights are published.
    half: Literal["float16", "bfloat16"] = "float16"
    refused_dtypes: tuple[Literal["float16", "bfloat16", "float32"], ...] = ()
    #: Arguments that would change prompt or size, and what they are set to.
    pinned: Mapping[str, bool] = Field(default_factory=dict)
    #: The argument that must say how many pixels there are.
    area_argument: str | None = None
    #: Arguments, or attributes of the pipeline, that go with Diffusers' own value; recipes say it.
    recorded: tuple[str, ...] = ()
    #: Whether prompts are read in lower case.
    lower_case: bool = False
    #: Whether longer prompts of a call lengthen, and so change, the others, or their negative prompts alone, or the
    #: pipeline fails with several: then pictures, or those with negative prompts, are drawn one by one.
    neighbours: Literal["ignored", "lengthen", "lengthen negatives", "fail"] = "ignored"
    #: Whether pictures begin with steps of a prior.
    prior: bool = False
    #: Python packages that its pipelines import when they are opened or called, and that the farm does without.
    packages: tuple[str, ...] = ()
    opened_by: Literal["AutoPipelineForText2Image", "DiffusionPipeline"] = "AutoPipelineForText2Image"
    distilled: Distilled | None = None


def profile_of(pipeline: str | None) -> Profile | None:
    """Return the profile of a pipeline class; None of a family that the farm does not know."""
    return _profiles().get(family_of(pipeline) or "")


@cache
def family_of(pipeline: str | None) -> str | None:
    """Return the family of a pipeline class: the longest name in `profiles.toml` that the class's begins with."""
    return max((name for name in _profiles() if (pipeline or "").startswith(name)), key=len, default=None)


def wrongly_distilled(kind: Distilled | None, pipeline: str | None) -> str | None:
    """Return what is wrong with an entry's `distilled` for this pipeline class; None if nothing is known to be."""
    if kind is None or pipeline is None or family_of(pipeline) in _DISTILLED_FAMILIES:
        return None
    return f"distilled: is for models of Stable Diffusion and SDXL, and this is a {pipeline}; leave it out"


def asks_for_pag(pipeline: str | None) -> bool:
    """Tell whether a pipeline class perturbs attention (PAG)."""
    return "PAG" in (pipeline or "")


def distillation(kind: Distilled) -> Distillation:
    """Return what models that were distilled in this way draw well with."""
    return _distillations()[kind]


@cache
def _profiles() -> Mapping[str, Profile]:
    return {name: Profile.model_validate(table) for name, table in _written().items() if name != "distilled"}


@cache
def _distillations() -> Mapping[str, Distillation]:
    return TypeAdapter(dict[str, Distillation]).validate_python(_written()["distilled"])


@cache
def _written() -> Mapping[str, Any]:
    return tomllib.loads(files("storage.spec").joinpath("profiles.toml").read_text(encoding="utf-8"))
