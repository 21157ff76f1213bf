"""What another program says of a picture and the farm cannot take over.

In a file of prompts that is an error: it would be drawn otherwise than it says. Of a finished picture, whatever can be
taken over is, and the rest told by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from scheduler.intake.files.columns import Row, canonical, field_of, request_of
from storage.errors import BadSpecification
from storage.spec.picture import Request


@dataclass
class Leftovers:
    """Collect what is not taken over of one picture."""

    #: Fields that must be given in its place → why: a model without them would draw something else.
    unfit: dict[str, str] = field(default_factory=dict)
    #: What shaped the picture and is not done here, by the other program's names.
    not_done: dict[str, Any] = field(default_factory=dict)
    #: What says nothing of the picture, or nothing that is known here.
    unread: dict[str, Any] = field(default_factory=dict)


@contextmanager
def kept(leftovers: Leftovers | None, name: str, value: Any = None) -> Iterator[None]:
    """Keep what goes wrong with a field, or with a part that has no field (by its value); None: let it be raised."""
    try:
        yield
    except BadSpecification as error:
        if leftovers is None:
            raise
        if (of := field_of(name)) is not None:
            leftovers.unfit[canonical(of)] = str(error).removeprefix(f"{name}: ")
        else:
            leftovers.not_done[name] = str(error) if value is None else value


def request_of_most(row: Row, leftovers: Leftovers) -> Request:
    """Parse a row's cells but those that the farm cannot take, which are kept; cells that are no fields are, too.

    A prompt may be missing.
    """
    fit: dict[str, Any] = {}
    for name, cell in row.cells.items():
        if field_of(name) is None:
            leftovers.unread[name] = cell
        elif name != "prompt" or cell:
            with kept(leftovers, name):
                request_of(row._replace(cells={"prompt": "-", name: cell}))
                fit[name] = cell
    update: dict[str, Any] = {}
    if not fit.keys() & {"prompt", "prompt_embeds", "Prompt embeds"}:
        leftovers.unfit.setdefault("prompt", "it was drawn without one")
        fit["prompt"], update["prompt"] = "-", None
    if row.cells.get("negative_prompt") == "":
        # Of a finished picture that is what was meant, whatever negative prompt the model has of its own.
        update["negative_prompt"] = ""
    return request_of(row._replace(cells=fit)).model_copy(update=update)
