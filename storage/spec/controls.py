"""The controls of a picture besides its prompt, size, steps, guidance, sampler and seed.

Fields have Diffusers' names. None means unset. Which pipeline supports which is in `storage.spec.capabilities`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, WithJsonSchema, WrapValidator

#: A stored input is named by a hash of its content.
REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")
#: Controls with a number for each ControlNet.
PER_CONTROLNET = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")
#: More ControlNets at once are a mistake, not a picture.
MAX_CONTROLNETS = 8


def _items(value: Any) -> list[Any]:
    """Return a list, given as one, as a single value or (in a CSV cell) with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(value: Any, least: float, most: float) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"must be numbers, not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be numbers, not {value!r}")
    # Compared, never made a float before: whole numbers may be larger than floats can. NaN is in no range.
    if not least <= value <= most:
        raise ValueError(f"must be from {least:g} to {most:g}")
    # Adding zero turns -0.0, which compares equal to 0.0 but is written differently, into 0.0.
    return float(value) + 0.0


def _numbers(least: float, most: float) -> Callable[[Any], tuple[float, ...]]:
    def read(value: Any) -> tuple[float, ...]:
        found = tuple(_number(item, least, most) for item in _items(value))
        if not 1 <= len(found) <= MAX_CONTROLNETS:
            raise ValueError(f"must be 1 to {MAX_CONTROLNETS} numbers, one for each ControlNet")
        return found

    return read


def _pair(least: int) -> Callable[[Any], tuple[int, int]]:
    def read(value: Any) -> tuple[int, int]:
        found = _items(value)
        numbers = [int(item) if isinstance(item, str) and item.isdecimal() else item for item in found]
        whole = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
        if len(found) != 2 or len(whole) != 2 or not all(least <= number <= 65536 for number in whole):
            raise ValueError(f"must be two whole numbers of at least {least}")
        return whole[0], whole[1]

    return read


def _images(value: Any) -> tuple[str, ...]:
    found = _items(value)
    if not all(isinstance(item, str) and item and "\0" not in item for item in found):
        raise ValueError("must be files or stored inputs (sha256:…)")
    if not 1 <= len(found) <= MAX_CONTROLNETS:
        raise ValueError(f"must be 1 to {MAX_CONTROLNETS} images, one for each ControlNet")
    return tuple(found)


def _scales_by_name(value: Any) -> dict[str, float]:
    """Read `{"ink": 0.8}`, or text such as `ink=0.8, other`, where a name alone means 1."""
    if isinstance(value, str):
        pairs = [item.partition("=") for item in _items(value)]
        names = [name.strip() for name, _, _ in pairs]
        if other := next((name for name in names if ":" in name), None):
            raise ValueError(f"write a LoRA's scale as {other.replace(':', '=', 1)}")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"name {twice} twice; give it one scale")
        value = {name.strip(): scale or 1.0 for name, _, scale in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise ValueError('must name LoRAs of the registry and their scales, such as {"ink": 0.8}')
    return {name: _number(scale, -10, 10) for name, scale in value.items()}


def _input(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must be a file or a stored input (sha256:…)")
    return value


def _language(value: Any) -> Any:
    """Read the name that many know the web UI by."""
    return "webui" if value == "a1111" else value


def _read_by(read: Callable[[Any], Any]) -> WrapValidator:
    """Read a field by this function alone, from text as well as from typed values."""
    return WrapValidator(lambda value, _handler: read(value))


Size2 = Annotated[tuple[int, int], _read_by(_pair(1))]
Corner = Annotated[tuple[int, int], _read_by(_pair(0))]
Input = Annotated[str, AfterValidator(_input)]
Weighting = Annotated[
    Literal["compel", "webui"],
    BeforeValidator(_language),
    WithJsonSchema({"type": "string", "enum": ["compel", "webui", "a1111"]}),
]


class ModelControls(BaseModel):
    """Controls for which a model of the registry may have defaults."""

    eta: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="DDIM's η: 0 is deterministic, 1 is like DDPM. Other samplers do not support it."
    )

    clip_skip: Annotated[int, Field(ge=1, le=23)] | None = Field(
        None, description="How many of the text encoder's last layers to skip."
    )

    prompt_weighting: Weighting | None = Field(
        None,
        validation_alias=AliasChoices("prompt_weighting", "weighting"),
        description="`compel`: words can be weighted, as in `(red)1.4`, and prompts may exceed 77 tokens. "
        "`webui` (or `a1111`): the web UI's language: `(red:1.4)`, `((red))`, `[red]`, `[red:blue:0.5]`, `[red|blue]`, "
        "`BREAK`, `AND`, `<lora:ALIAS:0.8>`, in prompts of any length.",
    )

    long_prompts: Literal["chunk", "cut", "refuse"] | None = Field(
        None,
        description="What becomes of a prompt that is longer than the text encoder reads: `chunk` reads it in chunks "
        "of 75 tokens, `cut` (the default) ignores the end with a remark, `refuse` refuses the picture. Prompts with "
        "`prompt_weighting` are read in chunks.",
    )

    controlnet_conditioning_scale: Annotated[tuple[float, ...], _read_by(_numbers(0, 10))] | None = Field(
        None,
        validation_alias=AliasChoices("controlnet_conditioning_scale", "control_scale"),
        description="How strongly each ControlNet steers.",
    )

    control_guidance_start: Annotated[tuple[float, ...], _read_by(_numbers(0, 1))] | None = Field(
        None,
        validation_alias=AliasChoices("control_guidance_start", "control_start"),
        description="The share of the steps at which each ControlNet begins to steer.",
    )

    control_guidance_end: Annotated[tuple[float, ...], _read_by(_numbers(0, 1))] | None = Field(
        None,
        validation_alias=AliasChoices("control_guidance_end", "control_end"),
        description="The share of the steps at which each ControlNet stops steering.",
    )

    guess_mode: bool | None = Field(
        None, description="Let the ControlNet guess from its image alone; meant for a guidance of 3 to 5 and no prompt."
    )

    prior_num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        validation_alias=AliasChoices("prior_num_inference_steps", "prior_steps"),
        description="Steps of Kandinsky's prior, which makes image embeddings from the prompt.",
    )

    prior_guidance_scale: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = Field(
        None,
        validation_alias=AliasChoices("prior_guidance_scale", "prior_guidance"),
        description="Guidance of Kandinsky's prior.",
    )


class Controls(ModelControls):
    """All controls of one picture."""

    control_images: Annotated[tuple[str, ...], _read_by(_images)] | None = Field(
        None,
        description="An image for each ControlNet of the model, in its order: files, or stored inputs (`sha256:…`).",
    )

    prompt_embeds: Input | None = Field(
        None,
        description="Instead of a prompt: a safetensors file or stored input with `prompt_embeds` and its companions.",
    )

    original_size: Size2 | None = Field(None, description="SDXL's micro-conditioning, (height, width) in pixels.")

    crops_coords_top_left: Corner | None = Field(None, description="SDXL's micro-conditioning, (top, left) in pixels.")

    target_size: Size2 | None = Field(None, description="SDXL's micro-conditioning, (height, width) in pixels.")

    loras: Annotated[dict[str, float], _read_by(_scales_by_name)] | None = Field(
        None, description='LoRAs of the registry and their scales, such as `{"ink": 0.8}`.'
    )


def check_weights(name: str, prompt: str, language: str, steps: int) -> None:
    """Raise ValueError for what a weighted prompt, drawn in so many steps, cannot be read as, or would not be done."""
    # Loaded where a prompt is checked: commands that read the registry start sooner.
    from storage.spec import compel_prompts, webui_prompts

    try:
        if language == "webui":
            webui_prompts.check(prompt, steps=steps, negative=name == "negative_prompt")
        else:
            compel_prompts.check(prompt)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_composition(prompt: str, *, guidance_scale: float, guess_mode: bool) -> None:
    """Raise ValueError for prompts in the web UI's language that are put together and could not be drawn so."""
    from storage.spec import webui_prompts

    try:
        webui_prompts.check_composition(prompt, guidance_scale=guidance_scale, guess_mode=guess_mode)
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from None
