"""Options that narrow lists: `farm list`, `farm jobs`; and what commands take as a render or a job."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.param_types import Duration

if TYPE_CHECKING:
    from storage.renders.views import RenderView

_JOB = re.compile(r"([0-9a-z]{1,32}|@)-\d{6,9}")

label_option = click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only with this label; repeatable, all must hold."
)


class Since(click.ParamType[Callable[[float], float]]):
    """A moment: a time span before now, or a date with or without a time; what makes seconds since 1970 of now."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Callable[[float], float]:
        said = str(value).strip()
        if re.fullmatch(r"\d{1,6}[smhdw]", said, re.IGNORECASE):
            span = Duration().convert(said, param, ctx)
            return lambda now: now - span
        try:
            moment = datetime.fromisoformat(said).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{said[:40]!r}: expected such as 2d, 2026-11-28 or 2026-11-28T14:30", param, ctx)
        return lambda _: moment


def read_labels(said: Iterable[str]) -> dict[str, str]:
    """Return labels by name. Raises UsageError for one that is not NAME=VALUE."""
    found: dict[str, str] = {}
    for one in said:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--label {one[:40]!r}: expected NAME=VALUE, such as --label split=train")
        if found.setdefault(name, value) != value:
            raise click.UsageError(f"--label {name[:40]!r}: given twice, and no picture has two values of it")
    return found


def is_job(name: str) -> bool:
    """Return whether a name is that of a job, where a render could be named, too."""
    return _JOB.fullmatch(name) is not None


def called(render: "RenderView") -> str:
    """Return what a render is called, in brackets; nothing for one without a name."""
    return f" ({render.name})" if render.name is not None else ""


def shown_labels(labels: Any) -> str:
    """Return labels as they are given on the command line."""
    return " ".join(f"{name}={value}" for name, value in (labels or {}).items())
