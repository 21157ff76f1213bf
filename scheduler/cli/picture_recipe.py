"""What `farm recipe` and `farm rerender` read of a picture's file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.output import print_json
from storage.errors import InvalidInput

if TYPE_CHECKING:
    from storage.spec.picture import Spec

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def is_picture(name: str) -> bool:
    """Return whether a name is that of a picture's file, where a job could be named, too."""
    return Path(name).suffix.lower() in _SUFFIXES


def print_picture_recipe(path: Path, *, as_json: bool) -> None:
    """Print what a picture's file says. Raises InvalidInput (`scheduler.intake.picture_files`)."""
    # Loaded for files alone: the command starts without Pillow.
    from scheduler.intake.picture_files import read_picture

    made = read_picture(path)
    fields: dict[str, Any] = {"program": made.program, "spec": made.fields if made.spec is None else made.spec.fields()}
    if made.spec is not None:
        fields["made_with"] = dict(made.made_with)
    said = {"not_taken": made.left.unfit, "not_done": made.left.not_done, "not_read": made.left.unread}
    fields |= {name: what for name, what in said.items() if what}
    if as_json:
        print_json(fields)
    else:
        click.echo(json.dumps(fields, indent=2, ensure_ascii=False))


def recipe_in(path: Path) -> "tuple[Spec, Mapping[str, Any], str | None]":
    """Return the specification in a picture's file, what it was made with and, if converted, a hash of its pixels.

    Raises InvalidInput for one that does not have the first two.
    """
    from scheduler.intake.picture_files import read_picture

    made = read_picture(path)
    if made.spec is None:
        raise InvalidInput(
            f"{path}: of {made.program}, and without a whole recipe, which pictures of the farm have; "
            f"`farm render --from {path}` draws a picture with its settings"
        )
    return made.spec, made.made_with, made.pixels
