"""Names of downloaded pictures, by a pattern such as `{index:06}-{seed}` or `{model}/{prompt:40}`."""

import re
import string
from pathlib import PurePosixPath

from storage.errors import InvalidInput
from storage.renders.views import JobView

DEFAULT = "{index:06}-{seed}"
_NUMBERS = ("index", "seed")
_TEXTS = ("custom_id", "model", "prompt", "render")
#: What some file system or shell takes for something else.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
#: File systems allow 255; a suffix, and what tells twins apart, come behind.
_MOST_BYTES = 180


class FileNames:
    """The file of each picture below a folder, always inside it."""

    def __init__(self, pattern: str = DEFAULT) -> None:
        """Read a pattern. Raises InvalidInput, naming what is wrong with it."""
        self.pattern = pattern.removesuffix(".png")
        parts = self.pattern.split("/")
        if not all(parts) or ".." in parts or "." in parts or "\\" in pattern:
            raise InvalidInput(
                f"--name {pattern!r}: must stay inside the folder: no empty part, no '.', no '..', no backslash, "
                f"such as {DEFAULT} or {{model}}/{{index:06}}"
            )
        try:
            fields = [field for field in string.Formatter().parse(self.pattern) if field[1] is not None]
        except ValueError as error:
            raise InvalidInput(f"--name {pattern!r}: {error}; a field is written {{index}}") from None
        for _, name, width, conversion in fields:
            _check(pattern, name or "", width or "", conversion)
        if not fields:
            raise InvalidInput(f"--name {pattern!r}: without a field all pictures would have one name; try {DEFAULT}")

    def __call__(self, job: JobView) -> PurePosixPath:
        """Return a picture's name. A picture without a `custom_id` has its index in that place."""
        index = f"{job.index:06d}"
        values = {
            "custom_id": _Text(job.custom_id or index),
            "index": job.index,
            "model": _Text(job.spec.model),
            "prompt": _Text(job.spec.prompt or index),
            "render": _Text(job.render_id),
            "seed": job.spec.seed,
        }
        parts = [_component(part.format_map(values)) for part in self.pattern.split("/")]
        return PurePosixPath(*parts[:-1], f"{parts[-1]}.png")


class _Text(str):
    """Text whose format is the most characters that are taken of it."""

    __slots__ = ()

    def __format__(self, most: str) -> str:
        text = _UNSAFE.sub("_", self)
        return text[: int(most)] if most else text


def _check(pattern: str, name: str, width: str, conversion: str | None) -> None:
    if name not in _NUMBERS + _TEXTS:
        known = ", ".join((*_NUMBERS, *_TEXTS))
        raise InvalidInput(f"--name {pattern!r}: no field {name!r}; the fields are {known}")
    if conversion or not re.fullmatch(r"(0?[1-9]\d?)?" if name in _NUMBERS else r"([1-9]\d{0,2})?", width):
        digits = "such as {index:06}, six digits" if name in _NUMBERS else f"such as {{{name}:40}}, forty characters"
        raise InvalidInput(f"--name {pattern!r}: {{{name}}} takes a number, {digits}")


def _component(name: str) -> str:
    """Return one part of a path: not too long, and nothing that means another folder."""
    cut = name.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .")
    return cut or "_"
