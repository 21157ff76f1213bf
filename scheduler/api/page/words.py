"""Numbers, times and specifications as people read them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from scheduler.api.page.pasting import seen_json, shell_line

#: Options of `farm render` that are not called as their field.
_OPTIONS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "negative_prompt": "negative",
    "prompt_weighting": "weighting",
    "control_images": "control",
    "controlnet_conditioning_scale": "control-scale",
    "control_guidance_start": "control-start",
    "control_guidance_end": "control-end",
    "prompt_embeds": "embeds",
    "loras": "lora",
    "crops_coords_top_left": "crop",
    "prior_num_inference_steps": "prior-steps",
    "prior_guidance_scale": "prior-guidance",
}
#: Options of two numbers; others of several are given once for each.
_PAIRS = frozenset({"original_size", "crops_coords_top_left", "target_size"})
#: Of the limits of a key.
LIMITS = {
    "queued": "Unfinished pictures",
    "per_day": "Pictures a day",
    "per_minute": "Renders a minute",
    "work": "Pixels × steps of a picture",
    "uploads": "Uploads",
    "upload_bytes": "Bytes of uploads",
}
_SHOWN_CHARACTERS = 240
#: As commands name it.
_STANDARD_INPUT = "-"


def duration(seconds: float | None) -> str:
    """Return a duration in its largest unit, or an empty text for an unknown one."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    for unit, name, most in ((60, "min", 5400), (3600, "h", 172_800)):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}" if seconds >= 10 * unit else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.0f} days"


def rate(per_second: float) -> str:
    """Return a pace in the unit in which it is more than one: `2.4 pictures a minute`."""
    for unit, seconds in (("second", 1), ("minute", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:,.1f} pictures a {unit}"
    return f"{per_second * 3600:,.1f} pictures an hour"


def size(n: float) -> str:
    """Return bytes as people read them: `3.2 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 picture`, `12,000 pictures`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def number(value: float) -> str:
    """Return a number as it is, with all of its digits: `5`, `1.23456789`. Read again, it is the same."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def moment(at: float) -> str:
    """Return a time: `2026-11-28 14:30:05 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """Return a time as HTML's `datetime` has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def shortened(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """Return a text, or its beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


def as_json(value: Any) -> str:
    """Return a value as JSON that people read."""
    return seen_json(json.dumps(value, ensure_ascii=False, indent=2))


def as_line(value: Any) -> str:
    """Return a value as JSON on one line."""
    return seen_json(json.dumps(value, ensure_ascii=False))


def order_of_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to send to `POST /v1/renders` for a picture of this specification."""
    # Embeddings replace all text, which is empty then.
    empty = ("prompt", "negative_prompt") if spec.get("prompt_embeds") else ()
    return {name: value for name, value in spec.items() if name not in ("version", *empty) and value is not None}


def command_line(spec: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the command that renders a picture of this specification; `defaults`: its model's."""
    words = ["farm", "render"]
    for name, value in order_of_spec(spec).items():
        # No negative prompt is what is meant without the option, unless the model has one.
        if name == "prompt" or (name == "negative_prompt" and not value and not defaults.get(name)):
            continue
        option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not False:
            words += [word for one in _values(name, value) for word in (option, *one)]
    if spec.get("prompt") == _STANDARD_INPUT:
        # That is no prompt there, but a line of it is.
        return f"printf '%s\\n' {_STANDARD_INPUT} | {shell_line([*words, '--prompts', _STANDARD_INPUT])}"
    prompt = [spec["prompt"]] if spec.get("prompt") else []
    # A prompt may begin with a dash.
    return shell_line([*words, *(["--", *prompt] if prompt else [])])


def _values(name: str, value: Any) -> list[tuple[str, ...]]:
    """Return the words of an option, for each time that it is given."""
    if isinstance(value, Mapping):
        return [(f"{one}={number(scale)}",) for one, scale in value.items()]
    if name in _PAIRS:
        return [tuple(str(one) for one in value)]
    if isinstance(value, list | tuple):
        return [(str(one),) for one in value]
    return [(str(value),)]
