"""Inputs: conditioning images and embeddings that callers upload, stored once and named by their hash."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from storage.errors import NotFound
from storage.objects.store import ObjectStore
from storage.spec.controls import REFERENCE


class ObjectReader(Protocol):
    """The part of an object store that reading inputs takes."""

    def get(self, key: str) -> bytes: ...


def reference_of(data: bytes) -> str:
    """Return the reference by which specifications name these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put_input(objects: ObjectStore, data: bytes) -> str:
    """Store an input; its reference. Idempotent: equal bytes are one object."""
    reference = reference_of(data)
    objects.put(_key(reference), data)
    return reference


def reference_of_file(file: IO[bytes]) -> tuple[str, int]:
    """Return the reference of a file's bytes, and how many they are; it is left at its beginning."""
    file.seek(0)
    reference = _digested(file)
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    return reference, n_bytes


def put_input_file(objects: ObjectStore, file: IO[bytes]) -> str:
    """Store an input from a file, read piece by piece; its reference. Idempotent."""
    file.seek(0)
    reference = _digested(file)
    objects.put(_key(reference), file)
    return reference


def copy_input(objects: ObjectStore, reference: str, file: IO[bytes]) -> None:
    """Copy an input into an empty file, piece by piece, and leave that at its beginning. Raises NotFound as below."""
    with _found(reference):
        objects.copy(_key(reference), file)
    file.seek(0)
    _check(_digested(file), reference)
    file.seek(0)


def get_input(objects: ObjectReader, reference: str) -> bytes:
    """Return the bytes of an input. Raises NotFound, also if the stored bytes do not match the reference."""
    with _found(reference):
        data = objects.get(_key(reference))
    _check(reference_of(data), reference)
    return data


def has_input(objects: ObjectStore, reference: str) -> bool:
    return objects.exists(_key(reference))


def delete_input(objects: ObjectStore, reference: str) -> None:
    """Delete an input. Idempotent."""
    objects.delete(_key(reference))


def list_inputs(objects: ObjectStore) -> Iterator[str]:
    """List the references of all stored inputs."""
    for key in objects.list("inputs/"):
        if REFERENCE.fullmatch(reference := f"sha256:{key.removeprefix('inputs/')}"):
            yield reference


@contextmanager
def _found(reference: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise NotFound(f"input {reference} is not in the store; upload its file again (`farm upload`)") from None


def _digested(file: IO[bytes]) -> str:
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]


def _check(stored: str, reference: str) -> None:
    if stored != reference:
        raise NotFound(f"input {reference} is corrupt in the store; delete it there and upload its file again")


def _key(reference: str) -> str:
    found = REFERENCE.fullmatch(reference)
    if not found:
        raise NotFound(f"not an input: {reference!r}; expected sha256: and 64 hexadecimal digits")
    return f"inputs/{found[1]}"
