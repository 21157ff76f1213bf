"""Units of the web UI's ControlNet extension, as fields of a specification."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from PIL import Image, ImageOps, ImageStat

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.intake.uploads import check_image
from storage.errors import BadSpecification
from storage.spec.controls import MAX_CONTROLNETS
from storage.spec.explanations import shown
from storage.spec.model_files import public_source
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import MAX_PIXELS

#: Fields that steer, and their values that the farm does.
_AS_IT_IS: Mapping[str, tuple[Any, ...]] = {
    "control_mode": (None, 0, "Balanced", ""),
    "guessmode": (None, False),
    "mask": (None, ""),
    "mask_image": (None, ""),
    "effective_region_mask": (None, ""),
    "ipadapter_input": (None, []),
    "inpaint_crop_input_image": (None, False, True),  # without a mask there is nothing to crop to
    "advanced_weighting": (None, []),
    "pulid_mode": (None, "", "Fidelity"),
    "union_control_type": (None, "", "Unknown"),
    "input_mode": (None, "simple", "SIMPLE"),
    "hr_option": (None, "Both", "HiResFixOption.BOTH"),
}
_MODULES = (None, "", "none", "None")
#: Fields of preprocessors → the values that clients send without one.
_OF_MODULES: Mapping[str, tuple[Any, ...]] = {
    "processor_res": (None, -1, 64, 512),
    "threshold_a": (None, -1, 0, 64, 0.5),
    "threshold_b": (None, -1, 0, 64, 0.5),
    "pixel_perfect": (None, False),
}
#: Fields that say nothing of the picture.
_BESIDE = frozenset(
    {"enabled", "low_vram", "lowvram", "save_detected_map", "use_preview_as_input", "is_ui", "loopback"}
)
_READ = frozenset(
    {"image", "input_image", "model", "module", "weight", "guidance", "guidance_start", "guidance_end", "resize_mode"}
)
#: What clients of older versions call a field → its name, and what they send of the older one all the same.
_OLDER: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "input_image": ("image", (None, "")),
    "guidance": ("guidance_end", (None, 1)),
}
_RESIZES = {
    "just resize": "stretch",
    "scale to fit (inner fit)": "crop",
    "crop and resize": "crop",
    "envelope (outer fit)": "fill",
    "resize and fill": "fill",
    "0": "stretch",
    "1": "crop",
    "2": "fill",
}
_NO_MODELS = (None, "", "None", "none")


@dataclass(frozen=True)
class Canvas:
    """The size of the picture, to which control images are brought."""

    width: int
    height: int


def conditioning(
    context: ApiContext, caller: Caller, scripts: Mapping[str, Any], model: Model, canvas: Canvas
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of ControlNet's units, and remarks.

    Raises BadSpecification for other extensions that are used, and for whatever of a unit the farm does not do.
    """
    units: list[Mapping[str, Any]] = []
    for name, script in scripts.items():
        args = _arguments(name, script)
        if name.lower() == "controlnet":
            # Named in two spellings, it has the units of both.
            units += [_checked(unit) for unit in args if unit and _on(unit)]
        elif args[:1] == [False]:
            continue  # their first argument is whether they are on
        elif any(arg not in (None, False, "", [], {}) for arg in args):
            raise BadSpecification(f"alwayson_scripts: the extension {name} is not supported")
    if not units:
        return {}, []
    if len(units) > MAX_CONTROLNETS:
        raise BadSpecification(f"alwayson_scripts: {len(units)} units of ControlNet; the most are {MAX_CONTROLNETS}")
    # Images are brought to this size: before any memory is taken for it, it must be one.
    if canvas.width * canvas.height > MAX_PIXELS:
        raise BadSpecification(
            f"width, height: {canvas.width} × {canvas.height} is {canvas.width * canvas.height / 1e6:.1f} megapixels; "
            f"the maximum is {MAX_PIXELS / 1e6:.1f}"
        )
    # Nor is any image of them read that no ControlNet takes.
    nets = len(model.controlnets) if isinstance(model, DiffusersModel) else 0
    if len(units) > nets:
        raise BadSpecification(
            f"alwayson_scripts: the model {model.alias} has {nets or 'no'} ControlNet{'s' if nets > 1 else ''}, "
            f"and {len(units)} unit{'s are' if len(units) > 1 else ' is'} given"
        )
    for number, unit in enumerate(units):
        _check_model(unit.get("model"), model, number)
    fields = {
        "control_images": [_image(context, caller, unit, canvas) for unit in units],
        "controlnet_conditioning_scale": [_number(unit, "weight", 1.0) for unit in units],
        "control_guidance_start": [_number(unit, "guidance_start", 0.0) for unit in units],
        "control_guidance_end": [_number(unit, "guidance_end", _number(unit, "guidance", 1.0)) for unit in units],
    }
    return fields, sorted({remark for unit in units for remark in _remarks(unit)})


def _arguments(name: str, script: Any) -> list[Any]:
    """Return the arguments of an extension. Raises BadSpecification for what stands beside them, and is not read."""
    if isinstance(script, Mapping) and (others := [str(key) for key in script if key != "args"]):
        raise BadSpecification(
            f"alwayson_scripts: {name[:40]} has {others[0][:40]!r} beside its args; everything stands in `args`, a list"
        )
    args = script.get("args", []) if isinstance(script, Mapping) else script
    return args if isinstance(args, list) else [args]


def _on(unit: Any) -> bool:
    return not isinstance(unit, Mapping) or bool(unit.get("enabled", True))


def _checked(unit: Any) -> Mapping[str, Any]:
    if not isinstance(unit, Mapping):
        raise BadSpecification(
            f"alwayson_scripts: a unit of ControlNet must be an object with fields, not {shown(unit)}"
        )
    if unit.get("module") not in _MODULES:
        raise BadSpecification(
            f"alwayson_scripts: ControlNet's module {str(unit['module'])[:40]!r}: there are no preprocessors; "
            "send the image as the ControlNet takes it, with the module none"
        )
    if not isinstance(unit.get("enabled", True), bool | int):
        raise BadSpecification(
            f"alwayson_scripts: ControlNet's enabled must be true or false (given: {shown(unit['enabled'])})"
        )
    for older, (newer, usual) in _OLDER.items():
        # Of two names of one field, one would be left out.
        if unit.get(older) not in (*usual, unit.get(newer)) and unit.get(newer) not in (None, ""):
            raise BadSpecification(f"alwayson_scripts: ControlNet's {older} is its {newer}; give one of them")
    for name, value in unit.items():
        if name in _READ or name in _BESIDE or name in _OF_MODULES:
            continue
        if value not in _AS_IT_IS.get(name, (None, False, "", [], {})):
            raise BadSpecification(f"alwayson_scripts: ControlNet's {name} is not supported (given: {shown(value)})")
    return unit


def _remarks(unit: Mapping[str, Any]) -> list[str]:
    given = [name for name, usual in _OF_MODULES.items() if unit.get(name) not in usual]
    return [f"alwayson_scripts: ControlNet's {name} changes nothing without a module" for name in given]


def _check_model(name: Any, model: Model, number: int) -> None:
    """Raise BadSpecification if a unit names another ControlNet than the model's own in its place."""
    nets = [public_source(net) for net in model.controlnets] if isinstance(model, DiffusersModel) else []
    if name in _NO_MODELS or number >= len(nets):
        return
    wanted = str(name).partition(" [")[0]
    if wanted.lower() not in (nets[number].lower(), PurePath(nets[number]).name.lower()):
        raise BadSpecification(
            f"alwayson_scripts: ControlNet's model {wanted[:60]!r}: unit {number} of {model.alias} is "
            f"{PurePath(nets[number]).name}; leave the model out, or choose another checkpoint"
        )


def _number(unit: Mapping[str, Any], name: str, default: float) -> float:
    value = unit.get(name)
    if value is None:
        return default
    try:
        # Whole numbers can be larger than floats can.
        return float("" if isinstance(value, bool) else value)
    except (OverflowError, TypeError, ValueError):
        raise BadSpecification(
            f"alwayson_scripts: ControlNet's {name} must be a number (given: {shown(value)})"
        ) from None


def _image(context: ApiContext, caller: Caller, unit: Mapping[str, Any], canvas: Canvas) -> str:
    given = unit.get("image") or unit.get("input_image") or ""
    if isinstance(given, Mapping) and given.get("mask"):
        raise BadSpecification("alwayson_scripts: ControlNet's mask is not supported")
    text = given.get("image", "") if isinstance(given, Mapping) else str(given)
    try:
        data = base64.b64decode(text.rpartition(",")[2], validate=True)
        # As of files that are uploaded: of what they decode to, only so much is in memory at the same time.
        with context.checks.turn(caller):
            check_image(data)
            data = _resized(data, unit.get("resize_mode"), canvas)
    except BadSpecification:
        raise
    except ValueError as error:
        raise BadSpecification(f"alwayson_scripts: ControlNet's image: {error}") from None
    return context.uploads.keep(io.BytesIO(data), caller.submitter.uploader)


def _resized(data: bytes, mode: Any, canvas: Canvas) -> bytes:
    """Bring an image to the proportions of the picture as the extension does; one that has them stays as it is."""
    how = _RESIZES.get(str("crop and resize" if mode is None else mode).lower().removeprefix("resizemode."))
    if how is None:
        raise BadSpecification(f"alwayson_scripts: ControlNet's resize_mode is not known (given: {shown(mode)})")
    with Image.open(io.BytesIO(data)) as opened:
        # Each copy of a large one is a quarter of a gigabyte.
        ImageOps.exif_transpose(opened, in_place=True)
        image = opened.convert("RGB")
    if how == "stretch" or image.width * canvas.height == image.height * canvas.width:
        return data
    size = (canvas.width, canvas.height)
    if how == "crop":
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    else:
        image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=_border(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _border(image: Image.Image) -> tuple[int, ...]:
    """Return the median colour of an image's border."""
    width, height = image.size
    edges: Sequence[tuple[int, int, int, int]] = (
        (0, 0, width, 1),
        (0, height - 1, width, height),
        (0, 0, 1, height),
        (width - 1, 0, width, height),
    )
    pixels = b"".join(image.crop(edge).tobytes() for edge in edges)
    strip = Image.frombytes("RGB", (len(pixels) // 3, 1), pixels)
    return tuple(round(value) for value in ImageStat.Stat(strip).median)
