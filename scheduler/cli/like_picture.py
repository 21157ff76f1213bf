"""`--from PICTURE`: the settings that a picture's file names, as defaults of an order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.settings import Settings
from storage.spec.picture_size import FIELDS
from storage.spec.registry import read_registry

#: What is no field of an order's defaults.
_OF_ONE = ("prompt", "seed")
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class LikePicture:
    """Hold what a picture's file names: its prompt, its seed, other fields, and what is to be said of the rest."""

    prompts: tuple[str, ...] = ()
    seed: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return these fields with those that were given in their place; one size in place of the other."""
        mine = dict(self.fields)
        if not {*FIELDS, "size", "aspect"}.isdisjoint(given):
            mine = {name: value for name, value in mine.items() if name not in FIELDS}
        if "prompt_embeds" in given:
            replaced = ("negative_prompt", "prompt_weighting", "clip_skip")
            mine = {name: value for name, value in mine.items() if name not in replaced}
        return {**mine, **given}


def like_picture(path: Path, settings: Settings) -> LikePicture:
    """Read a picture's settings. Raises InvalidInput, BadSpecification (`scheduler.intake.picture_files`)."""
    # Loaded for this option alone: commands start without Pillow.
    from scheduler.intake.picture_files import read_picture

    made = read_picture(path)
    # As Python holds them: lists stay what requests take.
    fields = made.request.model_dump(exclude_none=True, exclude={"labels", "custom_id"})
    remarks = []
    registry = read_registry(settings)
    model = fields.get("model")
    if model is not None and model not in registry.models and made.spec is None:
        del fields["model"]
        remarks.append(f"model: {model!r} of the picture is not registered here; --model says which to take")
    if made.unread:
        names = list(made.unread)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        remarks.append(f"{path}: not read: {', '.join(names[:_SHOWN])}{more}")
    if made.spec is None:
        remarks.append(f"{path} is of {made.program}, whose pictures are drawn alike here, not the same")
    return LikePicture(
        prompts=(fields["prompt"],) if "prompt" in fields else (),
        seed=fields.get("seed"),
        fields={name: value for name, value in fields.items() if name not in _OF_ONE},
        remarks=tuple(remarks),
    )
