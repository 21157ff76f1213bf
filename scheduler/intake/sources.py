"""Open prompt files: a path, `-` (standard input) or an object, `s3://bucket/key`."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scheduler.intake.manifests import Manifest, manifest
from scheduler.intake.uploads import MAX_BYTES
from storage.errors import InvalidInput, ObjectStoreRefused
from storage.objects.store import copy_object
from storage.settings import Settings

_PIECE = 2**20


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


@contextmanager
def opened_at_firing(
    given: str, settings: Settings, *, kind: str | None = None, delimiter: str | None = None
) -> Iterator[Manifest]:
    """Open a prompt file that a schedule reads anew each time: an absolute path, or an object, `s3://bucket/key`.

    It is copied first, up to `MAX_BYTES`: whoever writes it meanwhile changes nothing of what is read.

    Raises InvalidInput for what is not there, may not be read, is no file or too large; ObjectStoreProblem.
    """
    with tempfile.NamedTemporaryFile(prefix="farm-prompts-") as file:
        if given.startswith("s3://"):
            try:
                copy_object(given, file, settings, at_most=MAX_BYTES)
            except ObjectStoreRefused as error:
                raise InvalidInput(f"{given}: {error}") from None  # waiting would not help
        else:
            _copy_file(Path(given), file)
        file.flush()
        suffix = Path(given).suffix.lower().removeprefix(".")
        # Beside an object there are no files.
        folder = Path() if given.startswith("s3://") else Path(given).parent
        yield Manifest(path=Path(file.name), kind=kind or suffix, shown=given, folder=folder, delimiter=delimiter)


def _copy_file(path: Path, file: IO[bytes]) -> None:
    try:
        # A pipe without a writer is not waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as given:
            if not stat.S_ISREG(os.fstat(given.fileno()).st_mode):
                raise InvalidInput(f"{path}: not a file")
            left = MAX_BYTES
            while piece := given.read(min(_PIECE, left + 1)):
                if (left := left - len(piece)) < 0:
                    raise InvalidInput(f"{path}: larger than {MAX_BYTES // 2**20} MB")
                file.write(piece)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


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
