"""What a model registry holds: models of each kind, with defaults for their pictures and how they are run; LoRAs."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, model_validator

from storage.spec.controls import MAX_CONTROLNETS, ModelControls
from storage.spec.picture import Guidance, NegativePrompt, Sampler, Size, Steps
from storage.spec.profiles import DISTILLED, Distilled, asks_for_pag, distillation, wrongly_distilled

#: Fields of a model that are defaults of its pictures.
DEFAULTS = {
    *("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt", "sampler"),
    *ModelControls.model_fields,
}
#: Repositories that have moved.
_MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
#: No call of a model ever has more pictures.
MOST_AT_ONCE = 256
#: A batch, where the registry does not say.
_BATCH = 8
#: What is pickled can carry code, which runs as soon as it is read.
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
SINGLE_FILE = ".safetensors"
#: What else models come in, by the ending: why none of it is read.
_OTHER_FORMATS = {
    ".gguf": "is quantized for other programs (GGUF), which the farm does not read; take safetensors",
    ".onnx": "is an ONNX graph, and the farm draws with PyTorch; take the same model's safetensors",
    **dict.fromkeys((".zip", ".tar", ".gz", ".7z", ".rar"), "is an archive; unpack it, and name what is in it"),
}
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
ALIAS: Any = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")


def _from_source(value: Any) -> Any:
    """Accept a source alone, or a table of it with its revision and variant."""
    return {"source": value} if isinstance(value, str) else value


def _unless_auto(value: Any) -> Any:
    if value == "auto":
        return None
    if isinstance(value, str | bool):
        raise ValueError(f'must be a whole number from 1 to {MOST_AT_ONCE}, or "auto"')
    return value


class _Model(BaseModel):
    """Common to all kinds: the defaults of a request's fields, and how many pictures fit in one batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = ALIAS
    #: The most pictures in one call. None, written "auto" or not at all: what is learned to be best for a device.
    batch_limit: Annotated[int | None, BeforeValidator(_unless_auto)] = Field(None, ge=1, le=MOST_AT_ONCE)
    width: Size = 512
    height: Size = 512
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 7.5
    negative_prompt: NegativePrompt = ""
    sampler: Sampler | None = None

    @property
    def batch(self) -> int:
        """Return how many jobs make a batch: an owner's in a round, a ticket's worth, and where learning begins."""
        return _BATCH if self.batch_limit is None else self.batch_limit

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Defaults of the fields that a request omits."""
        return self.model_dump(include=DEFAULTS, exclude_none=True)


def wrong_source(source: str) -> str | None:
    """Return why nothing of this name is ever read, and what to do; None: it may be."""
    name, ending = source.rpartition("/")[2], PurePosixPath(source.lower()).suffix
    if not source.strip():
        return "must name a folder, a safetensors file or a repository of the hub"
    if "://" in source:
        repository = _HUB_PAGE.match(source)
        known = f"the repository, {repository[1]}" if repository else "a repository of the hub (OWNER/NAME)"
        return f"{source[:80]} is an address; name {known}, or fetch the file and name that"
    if ending in PICKLED:
        return (
            f"{name} is pickled, and such a file can carry code that runs when it is read; make it a safetensors file: "
            "python -m worker.rendering.to_safetensors FILE"
        )
    if ending == SINGLE_FILE and not source.endswith(SINGLE_FILE):
        return f"{name}: write its ending in small letters, {SINGLE_FILE}"
    return f"{name} {_OTHER_FORMATS[ending]}" if ending in _OTHER_FORMATS else None


def _readable(source: str) -> str:
    if wrong := wrong_source(source):
        raise ValueError(wrong)
    return source


class Weights(BaseModel):
    """Weights in Diffusers layout, or in one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A hub id, a folder, a safetensors file, or `shipped:<name>`, which comes with the farm.
    source: Annotated[str, AfterValidator(lambda source: _readable(_MOVED.get(source, source)))]
    revision: str | None = None
    variant: str | None = None
    #: Of a single file: a folder or hub id whose configuration files say how it is put together; None: the farm's own.
    config: str | None = None

    @property
    def is_single_file(self) -> bool:
        return self.source.endswith(SINGLE_FILE)

    @model_validator(mode="after")
    def _nothing_is_given_in_vain(self) -> "Weights":
        for name in ("revision", "variant") if self.is_single_file else ("config",):
            if getattr(self, name) is not None:
                of = "single safetensors files" if name == "config" else "folders and repositories, not of single files"
                raise ValueError(f"{name} is a key of {of}")
        return self


class Lora(BaseModel):
    """A LoRA: a small change of a model's weights, by alias, enabled per picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = ALIAS
    #: A hub id, a folder, or a safetensors file.
    source: Annotated[str, AfterValidator(_readable)]
    revision: str | None = None
    #: The file in a repository or folder of several.
    weight_name: str | None = None
    #: Aliases of the models that it was made for; none named: every one whose pipeline takes LoRAs.
    models: tuple[str, ...] = ()


class Embedding(Lora):
    """A textual inversion: vectors that a word of prompts, its alias, stands for."""


class Running(BaseModel):
    """How a pipeline is run, for speed or memory; pictures stay the same except for their last bits."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="precision; auto: on a GPU the half precision that its family is made for, on a CPU float32",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="what stays in the computer's memory until it is needed, for GPUs too small for the model"
    )
    vae_slicing: bool = Field(False, description="decode the pictures of a batch one by one: less memory, slower")
    vae_tiling: bool = Field(False, description="decode each picture in tiles: for sizes that do not fit in memory")
    channels_last: bool | None = Field(
        None, description="memory layout of convolutions; default: channels last on a GPU, where that is faster"
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        "none", description="torch.compile's mode: faster pictures, after minutes for the first of each size"
    )
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        "auto", description="preferred kernel of scaled-dot-product attention; auto: PyTorch's choice, usually the best"
    )
    tf32: bool = Field(False, description="TF32 for float32 on a GPU: faster, with 10 bits of mantissa")


class DiffusersModel(_Model, Weights, Running, ModelControls):
    """A pipeline that `AutoPipelineForText2Image` opens, or that `profiles.toml` says another way for."""

    kind: Literal["diffusers"]
    #: The class in its `model_index.json`, so that machines without the weights know what it takes.
    pipeline: str | None = None
    #: How it was distilled to draw in few steps: what it is asked is compared with what that means.
    distilled: Distilled | None = None
    #: Ask the model's own safety checker: a picture that it flags fails, with that reason.
    safety_checker: bool = False
    #: Another VAE than the model's own.
    vae: Annotated[Weights | None, BeforeValidator(_from_source)] = None
    #: A small decoder for previews of its pictures (`AutoencoderTiny`, such as TAESD), in a folder or repository; None:
    #: what is known of its latents (`worker.rendering.latent_rgb`).
    preview: Annotated[Weights | None, BeforeValidator(_from_source)] = None
    #: Of a single file: what the model predicts, and whether it was trained to end without signal; None: as the file
    #: says.
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_snr: bool | None = None
    controlnets: tuple[Annotated[Weights, BeforeValidator(_from_source)], ...] = Field((), max_length=MAX_CONTROLNETS)

    @model_validator(mode="after")
    def _single_files_have_no_more(self) -> "DiffusersModel":
        if self.is_single_file and self.safety_checker:
            raise ValueError("safety_checker: there is none in a single file")
        if self.preview is not None and self.safety_checker:
            raise ValueError("preview: not together with safety_checker, which looks at finished pictures alone")
        if self.preview is not None and self.preview.is_single_file:
            raise ValueError("preview: a single file; name a folder or repository of an AutoencoderTiny, such as TAESD")
        for name in ("prediction_type", "zero_snr"):
            if getattr(self, name) is not None and not self.is_single_file:
                raise ValueError(
                    f"{name} is a key of single safetensors files; a folder's scheduler_config.json says it"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _as_distilled(cls, given: Any) -> Any:
        """Fill in, where an entry says how its model was distilled, what such models draw with."""
        kind = given.get("distilled") if isinstance(given, Mapping) else None
        return {**distillation(kind).usual, **given} if kind in DISTILLED else given

    @model_validator(mode="after")
    def _is_of_a_family_that_is_distilled_so(self) -> Self:
        if wrong := wrongly_distilled(self.distilled, self.pipeline):
            raise ValueError(wrong)
        return self

    @property
    def base(self) -> tuple[object, ...]:
        """Equal for models that can hold their weights once, such as one with and one without a ControlNet."""
        if self.offload != "none":
            # Where the parts of an offloaded pipeline are is that pipeline's own business.
            return (self.alias,)
        running = self.model_dump(include=set(Running.model_fields))
        how = (*self._opened_as, self.vae, self.config, self.prediction_type, self.zero_snr)
        return (self.source, self.revision, self.variant, self.safety_checker, *how, *running.items())

    @property
    def parts(self) -> "tuple[Weights, ...]":
        """All weights that it is made of: its own, another VAE, ControlNets, a decoder for previews."""
        return (self, *(part for part in (self.vae, *self.controlnets, self.preview) if part is not None))

    @property
    def _opened_as(self) -> tuple[object, ...]:
        return (self.distilled, asks_for_pag(self.pipeline))


class SimulatedFault(BaseModel):
    """A fault of a simulated model, for rehearsals: it strikes at the first step of the batches that it applies to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["error", "out of memory", "broken device", "bad picture", "death", "hang"]
    #: Batches with a prompt that contains this; empty: all.
    prompt: str = ""
    #: Batches of at most so many pictures are spared.
    spares_batches_of: int = Field(0, ge=0)
    #: Spared once the worker saves memory.
    spares_frugal: bool = False
    #: How long it hangs.
    seconds: NonNegativeFloat = 3600


class SimulatedModel(_Model):
    """Sleeps `steps × (seconds_per_step + batch × seconds_per_step_and_picture)`; no torch."""

    kind: Literal["simulated"]
    seconds_per_step: NonNegativeFloat = 0.025
    seconds_per_step_and_picture: NonNegativeFloat = 0.019
    fault: SimulatedFault | None = None

    @property
    def base(self) -> tuple[object, ...]:
        """There are no weights to share."""
        return (self.alias,)


Model = DiffusersModel | SimulatedModel
