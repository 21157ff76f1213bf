"""Open prompt files: a path, `-` (standard input) or an object, `s3://bucket/key`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scheduler.intake.manifests import Manifest, manifest
from storage.errors import InvalidInput
from storage.objects.store import copy_object
from storage.settings import Settings


@contextmanager
def opened(
    given: str, settings: Settings, *, kind: str | None = None, delimiter: str | None = None
) -> Iterator[Manifest]:
    """Open a prompt file; what is not a local file is copied into a temporary one first.

    Raises InvalidInput, ObjectStoreProblem.
    """
    if given != "-" and not given.startswith("s3://"):
        path = Path(given)
        if path.is_file() or path.is_dir() or not path.exists():
            yield manifest(path, kind=kind, delimiter=delimiter)
            return
    with tempfile.NamedTemporaryFile(prefix="farm-prompts-") as file:
        _copy(given, settings, file)
        file.flush()
        yield Manifest(
            path=Path(file.name),
            kind=kind or _kind(given, file),
            shown="standard input" if given == "-" else given,
            folder=Path(),
            delimiter=delimiter,
        )


def _copy(given: str, settings: Settings, file: IO[bytes]) -> None:
    if given == "-":
        shutil.copyfileobj(sys.stdin.buffer, file)
    elif given.startswith("s3://"):
        copy_object(given, file, settings)
    else:
        # A pipe, such as a shell's <(…), can be read only once.
        try:
            with Path(given).open("rb") as pipe:
                shutil.copyfileobj(pipe, file)
        except OSError as error:
            raise InvalidInput(f"{given}: {error.strerror}") from None


def _kind(given: str, file: IO[bytes]) -> str:
    """Return the kind of a file without a name, by its first bytes."""
    if given.startswith("s3://"):
        return Path(given).suffix.lower().removeprefix(".")
    file.seek(0)
    # Of text, the first lines tell more (`scheduler.intake.files.forms`).
    return "parquet" if file.read(4) == b"PAR1" else "txt"
