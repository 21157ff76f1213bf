"""What to render: the specification of one picture, checked when it is submitted.

A caller gives a `Request`: any subset of the fields. Resolved against its model's defaults (`storage.spec.registry`)
and a seed, it becomes a `Spec`: complete, frozen, and written in one canonical form, so that equal pictures have
equal specifications.
"""

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from storage.errors import BadSpecification
from storage.spec.controls import REFERENCE, Controls, check_composition, check_weights
from storage.spec.explanations import explain
from storage.spec.foreign_samplers import sampler_of
from storage.spec.picture_size import FIELDS, checked_aspect, checked_size, contradiction, sides_of
from storage.spec.sampler_names import SAMPLERS

#: Raised by one whenever the meaning of a field changes; readers refuse what they do not know.
VERSION = 1

#: Seeds are signed 64-bit integers that are not negative (`torch.Generator.manual_seed`, BIGINT).
MAX_SEED = 2**63 - 1
#: PyTorch's generator on the CPU, from which all noise comes, is seeded with the lowest 32 bits.
DISTINCT_SEEDS = 2**32
#: Anything longer is a pasted file, not a prompt.
MAX_PROMPT_CHARACTERS = 10_000
MAX_CUSTOM_ID_CHARACTERS = 200
MAX_PIXELS = 4096 * 4096
#: Labels of one picture, as JSON.
MAX_LABEL_BYTES = 20_000


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return _text(value)


def _size(value: int) -> int:
    if value % 8:
        raise ValueError(f"must be a multiple of 8, such as {value // 8 * 8 or 8} or {value // 8 * 8 + 8}")
    return value


def _sampler(value: str) -> str:
    name = value.strip().lower()
    if name in SAMPLERS:
        return name
    try:
        return sampler_of(value)
    except BadSpecification as error:
        raise ValueError(str(error)) from None


Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_prompt)]
CustomId = Annotated[str, Field(min_length=1, max_length=MAX_CUSTOM_ID_CHARACTERS), AfterValidator(_text)]
NegativePrompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_text)]
Size = Annotated[int, Field(ge=8, le=8192), AfterValidator(_size)]
SizeText = Annotated[str, Field(max_length=40), AfterValidator(checked_size)]
Aspect = Annotated[str, Field(max_length=40), AfterValidator(checked_aspect)]
Steps = Annotated[int, Field(ge=1, le=1000)]
# Adding zero turns -0.0, which compares equal to 0.0 but is written differently, into 0.0.
Guidance = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), AfterValidator(lambda value: value + 0.0)]
Sampler = Annotated[
    str,
    AfterValidator(_sampler),
    WithJsonSchema({"type": "string", "enum": [*dict.fromkeys((*SAMPLERS.values(), *SAMPLERS))]}),
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


#: NaN is a number of Python's, not of JSON's.
_write = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def write_labels(labels: Mapping[str, Any]) -> str:
    """Write labels as JSON. Raises ValueError for what JSON does not have."""
    # By hand where all are text, as in most manifests: an encoder is made anew for each row.
    if {*map(type, labels.values())} == {str}:
        return f"{{{', '.join([f'{encode_basestring(name)}: {encode_basestring(labels[name])}' for name in labels])}}}"
    return _write(labels)


def _labels(value: dict[str, Any]) -> dict[str, Any]:
    # Encoding it finds lone surrogates, which no database takes.
    try:
        written = write_labels(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be text without halves of characters (surrogates)") from error
    except ValueError as error:
        raise ValueError("must be numbers that JSON has; NaN and Infinity are none") from error
    if len(written) > MAX_LABEL_BYTES:
        raise ValueError(f"must be at most {MAX_LABEL_BYTES} bytes as JSON")
    return value


Labels = Annotated[dict[str, Any], AfterValidator(_labels)]


#: Fields that say nothing of the picture itself.
_BESIDE = frozenset({"custom_id", "labels"})


class Request(Controls):
    """What a caller asks for: a prompt and any other field; omitted fields take the model's defaults.

    Fields have Diffusers' names; the command line's short names (`steps`, `guidance`, `negative`) are accepted too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_name=True)

    prompt: Prompt | None = Field(None, description="What to draw; omitted only with `prompt_embeds`.")

    negative_prompt: NegativePrompt | None = Field(
        None, validation_alias=AliasChoices("negative_prompt", "negative"), description="What to steer away from."
    )

    model: str | None = Field(None, min_length=1, description="A model's alias in the registry.")

    width: Size | None = Field(None, description="Pixels, a multiple of 8.")

    height: Size | None = Field(None, description="Pixels, a multiple of 8.")

    size: SizeText | None = Field(None, description="Width and height at once, such as `768x512`.")

    aspect: Aspect | None = Field(
        None,
        description="How wide to how high, such as `16:9`: on as many pixels as the model's own size has, or beside "
        "the one side that is given.",
    )

    num_inference_steps: Steps | None = Field(
        None, validation_alias=AliasChoices("num_inference_steps", "steps"), description="Denoising steps."
    )

    guidance_scale: Guidance | None = Field(
        None,
        validation_alias=AliasChoices("guidance_scale", "guidance"),
        description="How closely to follow the prompt; 1 or less disables guidance.",
    )

    sampler: Sampler | None = Field(None, description="Such as `ddim`, `euler a` or `dpm++ 2m sde karras`.")

    seed: Seed | None = Field(
        None,
        description="Seed of the first picture; the next ones count up from it. If omitted, one is drawn and recorded. "
        "Its lowest 32 bits count.",
    )

    custom_id: CustomId | None = Field(
        None, description="The caller's own name for this picture, unique within a render."
    )

    labels: Labels | None = Field(None, description="Anything else to keep with the picture, also in exports.")

    @model_validator(mode="after")
    def _says_something(self) -> "Request":
        if self.prompt is None and self.prompt_embeds is None:
            raise ValueError("prompt: missing")
        return self

    @model_validator(mode="after")
    def _sized(self) -> "Request":
        if self.size is not None or self.aspect is not None:
            given = [name for name in FIELDS if getattr(self, name) is not None]
            if (wrong := contradiction(given)) is not None:
                raise ValueError(wrong)
        if self.size is not None:
            # From here on it is two fields, like any other.
            width, height = sides_of(self.size)
            self.__dict__.update(width=width, height=height, size=None)
            self.__pydantic_fields_set__.update(("width", "height"))
            self.__pydantic_fields_set__.discard("size")
        return self

    def asked(self) -> dict[str, Any]:
        """Return the fields that were given and describe the picture itself."""
        return {name: value for name, value in self.__dict__.items() if value is not None and name not in _BESIDE}

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "Request":
        """Check typed fields (JSON, Python). Raises BadSpecification naming the first wrong field."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise BadSpecification(explain(error, cls)) from None

    @classmethod
    def parse_strings(cls, fields: Mapping[str, str], labels: Mapping[str, str] | None = None) -> "Request":
        """Check fields that are all text (CSV), where an empty one counts as omitted, and their labels."""
        try:
            read = cls.model_validate_strings({name: text for name, text in fields.items() if text != ""})
            return read.model_copy(update={"labels": dict(labels)}) if labels else read
        except ValidationError as error:
            raise BadSpecification(explain(error, cls)) from None


#: The names that a field may have in a row, including short ones such as `steps`.
NAMES = frozenset(Request.model_fields) | {
    str(name)
    for field in Request.model_fields.values()
    if isinstance(field.validation_alias, AliasChoices)
    for name in field.validation_alias.choices
}
#: A look at `model_fields` costs as much as a whole validation.
_CONTROLS = tuple(Controls.model_fields)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Spec(Controls):
    """One picture, completely: equal specifications on equal software and hardware give equal pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_name=True)

    version: int = VERSION
    model: str
    #: Empty only with `prompt_embeds`.
    prompt: NegativePrompt
    negative_prompt: NegativePrompt
    width: Size
    height: Size
    num_inference_steps: Steps
    guidance_scale: Guidance
    sampler: Sampler | None = None
    seed: Seed

    @model_validator(mode="after")
    def _consistent(self) -> "Spec":
        given = [("control_images", name) for name in self.control_images or ()]
        if self.prompt_embeds is not None:
            given.append(("prompt_embeds", self.prompt_embeds))
            words = ("prompt", "negative_prompt", "prompt_weighting", "clip_skip")
            if said := [name for name in words if getattr(self, name)]:
                raise ValueError(f"{said[0]}: cannot be combined with prompt_embeds, which replace all text")
        elif not self.prompt.strip():
            raise ValueError("prompt: must not be empty")
        if unstored := [(field, name) for field, name in given if not REFERENCE.fullmatch(name)]:
            field, name = unstored[0]
            raise ValueError(f"{field}: {name[:60]!r} is not a stored input; upload the file first (`farm upload`)")
        if self.prompt_weighting == "compel" and self.clip_skip:
            raise ValueError("clip_skip: cannot be combined with prompt_weighting compel")
        if self.prompt_weighting:
            for name in ("prompt", "negative_prompt"):
                check_weights(name, getattr(self, name), self.prompt_weighting, self.num_inference_steps)
        if self.prompt_weighting == "webui":
            guesses = bool(self.guess_mode)
            check_composition(self.prompt, guidance_scale=self.guidance_scale, guess_mode=guesses)
        if self.eta and self.sampler not in (None, "ddim"):
            raise ValueError(f"eta: the sampler {SAMPLERS[str(self.sampler)]} does not support it, only DDIM does")
        return self

    def fields(self) -> dict[str, Any]:
        """Return every field, without unset controls, as JSON can write it."""
        # By hand, here and below: a dump of pydantic's takes five times as long, and a manifest has a million rows.
        said = self.__dict__
        return {name: said[name] for name in _NEVER_LEFT_OUT} | self.controls()

    def controls(self) -> dict[str, Any]:
        """Return the controls that are set, as JSON can write them."""
        said = self.__dict__
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in _CONTROLS
            if (value := said[name]) is not None
        }

    def canonical(self) -> str:
        """Write the specification as JSON: sorted keys, no spaces, no escapes but JSON's own."""
        return _CANONICAL.encode(self.fields())

    def batch_key(self) -> str:
        """Return a hash equal for pictures that one pipeline call can make; prompts, seeds and inputs may differ."""
        return self._key(self.num_inference_steps, self.guidance_scale, self.sampler, *_shared(self.controls()))

    def loop_key(self) -> str:
        """Return a hash equal for pictures that slots can denoise together, each with steps and LoRAs of its own."""
        return self._key(*_shared({name: value for name, value in self.controls().items() if name not in _OF_ROWS}))

    def _key(self, *shared: object) -> str:
        return hashlib.sha256(repr((self.model, self.width, self.height, *shared)).encode()).hexdigest()[:16]


#: Controls that may differ between pictures that are denoised together.
_OF_ROWS = frozenset({"eta", "loras"})


def _shared(controls: dict[str, Any]) -> tuple[object, ...]:
    """Return what of the controls all pictures of a call must have in common; nothing where none is set."""
    of_one = {"prompt_embeds": True, "control_images": len(controls.get("control_images", ()))}
    common = sorted((controls | {name: of_one[name] for name in of_one.keys() & controls.keys()}).items())
    return (common,) if common else ()


_NEVER_LEFT_OUT = tuple(name for name in Spec.model_fields if name not in _CONTROLS)


def read_spec(text: str) -> Spec:
    """Read what `Spec.canonical` wrote. Raises BadSpecification if another version of the farm wrote it."""
    try:
        fields = json.loads(text)
        version = fields["version"]
    except (ValueError, TypeError, KeyError):
        raise BadSpecification("specification: not written by a farm") from None
    if version != VERSION:
        raise BadSpecification(f"version: this farm reads version {VERSION}, the job has {version!r}")
    try:
        return Spec.model_validate(fields)
    except ValidationError as error:
        raise BadSpecification(explain(error)) from None


def check_pixels(width: int, height: int) -> None:
    """Raise BadSpecification for a picture that is too large for any device."""
    if width * height > MAX_PIXELS:
        raise BadSpecification(
            f"width, height: {width}×{height} is {width * height / 1e6:.1f} megapixels; "
            f"the maximum is {MAX_PIXELS / 1e6:.1f}"
        )
