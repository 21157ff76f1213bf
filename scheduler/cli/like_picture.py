"""`--from PICTURE`: the settings that a picture's file names, as defaults of an order."""

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.registered_hashes import RegisteredHashes
from scheduler.cli.registered_names import take_embeddings, take_loras, take_model, take_ours
from storage.errors import BadSpecification
from storage.settings import Settings
from storage.spec.picture_size import FIELDS
from storage.spec.registry import read_registry

if TYPE_CHECKING:
    from scheduler.intake.picture_files import MadeBy

#: What is no field of an order's defaults.
_OF_ONE = ("prompt", "seed")
_SHOWN = 20
#: Options that are not called as their fields are.
_OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "negative_prompt": "--negative",
    "prompt_weighting": "--weighting",
    "loras": "--lora",
    "prompt": "a prompt",
    **dict.fromkeys((*FIELDS, "size"), "--size"),
}
_NAME_AND_HASH = re.compile(r"([^,:]+?)\s*:\s*([0-9a-f]+)(?:,\s*|$)")
#: Of a value that is told.
_WIDTH = 80
_SIZES = frozenset({*FIELDS, "size", "aspect"})


@dataclass(frozen=True, kw_only=True)
class LikePicture:
    """Hold what a picture's file names: its prompt, its seed, other fields, and what is to be said of the rest."""

    prompts: tuple[str, ...] = ()
    seed: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    #: Fields of it that the farm cannot take → what to say.
    unfit: Mapping[str, str] = field(default_factory=dict)

    def check(self, given: Collection[str]) -> None:
        """Raise BadSpecification for a field that the farm cannot take, unless it is given beside."""
        for name, why in self.unfit.items():
            if name == "prompt" and "prompt_embeds" in given:
                continue
            if name not in given and not (name in _SIZES and _SIZES & set(given)):
                raise BadSpecification(why)

    def beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return these fields with those that were given in their place; one size in place of the other."""
        mine = dict(self.fields)
        if not _SIZES.isdisjoint(given):
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
    remarks: list[str] = []
    registry = read_registry(settings)
    hashes = RegisteredHashes(settings, lambda words: click.echo(words, err=True))
    if made.spec is None:
        unread = made.left.unread
        remarks += take_model(fields, unread, registry, hashes)
        remarks += take_loras(fields, _hashes_in(str(unread.get("Lora hashes", "")).lower()), registry, hashes)
        remarks += take_embeddings(fields, _hashes_in(str(unread.pop("TI hashes", ""))), registry, hashes)
    else:
        remarks += take_ours(fields, made.made_with, registry, hashes)
    return LikePicture(
        prompts=(fields["prompt"],) if "prompt" in fields else (),
        seed=fields.get("seed"),
        fields={name: value for name, value in fields.items() if name not in _OF_ONE},
        remarks=(*remarks, *_remarks(path, made)),
        unfit={name: f"{path}: {name}: {why}; {_instead(name)}" for name, why in made.left.unfit.items()},
    )


def _hashes_in(text: str) -> dict[str, str]:
    return dict(_NAME_AND_HASH.findall(text))


def _instead(name: str) -> str:
    return f"give {_OPTIONS.get(name) or '--' + name.replace('_', '-')} beside --from"


def _remarks(path: Path, made: "MadeBy") -> Iterator[str]:
    if made.left.not_done:
        yield f"{path}: not done here: {_listed(made.left.not_done, values=True)}"
    if made.left.unread:
        yield f"{path}: not read: {_listed(made.left.unread, values=False)}"
    if made.spec is None and made.program != "the farm":
        yield f"{path} is of {made.program}, whose pictures are drawn alike here, not the same"


def _listed(said: Mapping[str, Any], *, values: bool) -> str:
    told = [
        f"{name}: {textwrap.shorten(' '.join(str(value).split()), _WIDTH, placeholder=' …')}" if values else name
        for name, value in said.items()
    ]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return ("; " if values else ", ").join(told[:_SHOWN]) + more
