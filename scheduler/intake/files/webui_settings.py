"""The settings behind a prompt of the web UI's and its kin's: `Steps: 20, Sampler: Euler a, Lora hashes: "ink: 0a1b"`.

The farm writes the same into its pictures (`storage.spec.infotext`), with controls of its own by their names.
"""

import json
import re
from collections.abc import Mapping

from scheduler.intake.files.columns import field_of
from scheduler.intake.files.leftovers import Leftovers, kept
from storage.errors import BadSpecification
from storage.spec.foreign_samplers import of_webui
from storage.spec.infotext import MODELS_OWN
from storage.spec.sampler_names import SAMPLERS, SOLVERS, spelled, split

_NAME = re.compile(r"\s*([\w][\w \-/.]*):\s*")
_BARE = re.compile(r"[^,]*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])*"')
_BEHIND = re.compile(r"\s*(?:,|$)")
_JSON = json.JSONDecoder()
#: The version that the farm's own pictures name.
_OURS = "diffusion-farm"
#: Settings of what the farm does not do: a picture without it would be another one.
_NOT_DONE = (
    *("Hires ", "Variation seed", "Face restoration", "Tiling", "Refiner", "ControlNet", "ADetailer", "Mask "),
    *("Denoising strength", "Hypernet", "Token merging ratio", "NGMS", "FreeU", "Seed resize from"),
)
#: Those that a file of prompts may have all the same, as labels.
_ONLY_TOLD = ("Denoising strength", "Hypernet", "Token merging ratio", "NGMS", "FreeU", "Seed resize from")
_FIELDS = {
    "Steps": "num_inference_steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Model": "model",
    "Eta": "eta",
}
_READ_BELOW = ("Sampler", "Schedule type", "Size", "Clip skip")
#: The names of settings, whatever their case.
_SPELLED = {name.casefold(): name for name in (*_FIELDS, *_READ_BELOW)}
_API_NAMES = {"scheduler": "Schedule type", "sampler_name": "Sampler"}
_SIZE = re.compile(r"(\d+)x(\d+)")
#: Forge's name for the guidance that FLUX.1-dev is told; its CFG scale is then 1.
_DISTILLED = "Distilled CFG Scale"


def scan(line: str) -> dict[str, str]:
    """Read a line of settings: each ends with a comma, except within quotes, and within JSON."""
    found: dict[str, str] = {}
    position = 0
    while position < len(line):
        if (name := _NAME.match(line, position)) is None:
            # A word without a value: up to the next comma it is passed over.
            position = max(_BARE.match(line, position).end(), position) + 1  # type: ignore[union-attr]
            continue
        value, position = _value(line, name.end())
        known = name[1].strip()
        found[_SPELLED.get(known.casefold(), known)] = value
    return found


def _value(line: str, start: int) -> tuple[str, int]:
    """Return the value that begins here, without its quotes, and where the next setting begins."""
    if (quoted := _QUOTED.match(line, start)) and (behind := _BEHIND.match(line, quoted.end())):
        return _unquoted(quoted[0]), behind.end()
    if line[start : start + 1] in ("{", "["):
        try:
            _, end = _JSON.raw_decode(line, start)
        except (ValueError, RecursionError):
            end = start
        if end > start and (behind := _BEHIND.match(line, end)):
            return line[start:end], behind.end()
    bare = _BARE.match(line, start)
    end = bare.end() if bare else start
    return line[start:end].strip(), end + 1


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1].replace('\\"', '"')


def is_ours(settings: Mapping[str, str]) -> bool:
    """Return whether the farm wrote these."""
    return settings.get("Version", "").startswith(_OURS)


def cells_of(found: Mapping[str, str], leftovers: Leftovers | None = None) -> dict[str, str]:
    """Return settings as cells by our fields; those that say nothing of the picture by their own names, as labels.

    Raises BadSpecification for what the farm does not do or have, unless it is kept.
    """
    ours = is_ours(found)
    cells: dict[str, str] = {}
    for name, value in found.items():
        if name.startswith(_NOT_DONE) and not (leftovers is None and name.startswith(_ONLY_TOLD)):
            with kept(leftovers, name, value):
                raise BadSpecification(f"{name}: {value}: not supported by the farm; leave it out to render without it")
        elif name in _FIELDS:
            cells[_FIELDS[name]] = value
        elif name not in _READ_BELOW:
            # A setting that is called like a field, but is not one of the web UI's, would be taken for it.
            cells[f"{name} (setting)" if field_of(name) and not ours else name] = value
    with kept(leftovers, "size"):
        cells |= _size(found.get("Size"))
    with kept(leftovers, "clip_skip"):
        cells |= _clip_skip(found.get("Clip skip"))
    with kept(leftovers, "sampler"):
        sampler, remarks = _sampler(found.get("Sampler"), found.get("Schedule type"), ours=ours)
        if sampler is not None:
            cells["sampler"] = sampler
        if leftovers is not None:
            # Remarks begin with the name that the web UI's API has for a setting.
            said = (remark.partition(": ") for remark in remarks)
            leftovers.not_done |= {_API_NAMES.get(name, name): what for name, _, what in said}
    if leftovers is not None and "eta" in cells and cells.get("sampler", "").lower() != "ddim":
        # The web UI gives it to ancestral samplers, too.
        leftovers.not_done["Eta"] = cells.pop("eta")
    if cells.get("seed") == "-1":
        del cells["seed"]
    if _DISTILLED in cells and cells.get("guidance_scale", "1") in ("1", "1.0"):
        cells["guidance_scale"] = cells.pop(_DISTILLED)
    return cells


def _size(said: str | None) -> dict[str, str]:
    if said is None:
        return {}
    if (size := _SIZE.fullmatch(said)) is None:
        raise BadSpecification(f"Size: must be WIDTHxHEIGHT (given: {said!r})")
    return {"width": size[1], "height": size[2]}


def _clip_skip(said: str | None) -> dict[str, str]:
    """Return our clip skip: the web UI counts the layer that is used from the end, so that 1 skips none."""
    if said is None:
        return {}
    if not said.isdecimal() or int(said) < 1:
        raise BadSpecification(f"Clip skip: must be at least 1 (given: {said!r})")
    return {"clip_skip": str(int(said) - 1)} if int(said) > 1 else {}


def _sampler(name: str | None, schedule: str | None, *, ours: bool) -> tuple[str | None, list[str]]:
    """Return the sampler of a name and a schedule of noise levels, and remarks. Raises BadSpecification for none.

    Args:
        ours: whether the farm wrote them, by its own names.
    """
    if name is None or name == MODELS_OWN or (ours and split(spelled(name))[0] not in SOLVERS):
        # Of the farm's pictures, a name that it does not have is the model's own sampler.
        return None, []
    if schedule is None:
        # As before the web UI 1.9, and ours of a model's own spacing: what the name says is all.
        return name, []
    if ours and (both := spelled(f"{name} {schedule}")) in SAMPLERS:
        return both, []
    try:
        return of_webui(name, schedule)
    except BadSpecification as error:
        raise BadSpecification(f"Schedule type: {str(error).removeprefix('scheduler: ')}") from None
