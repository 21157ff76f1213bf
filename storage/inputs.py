"""Inputs: what callers bring beside words (conditioning images, embeddings), stored once and named by its hash."""

import hashlib

from storage.controls import REFERENCE
from storage.errors import NotFound
from storage.objects import ObjectStore


def reference_of(data: bytes) -> str:
    """How specifications name these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put_input(objects: ObjectStore, data: bytes) -> str:
    """Store an input; its reference. Idempotent: equal bytes are one object."""
    reference = reference_of(data)
    objects.put(_key(reference), data)
    return reference


def get_input(objects: ObjectStore, reference: str) -> bytes:
    """The bytes of an input. Raises NotFound, also where what is stored is not what was named."""
    try:
        data = objects.get(_key(reference))
    except NotFound:
        raise NotFound(f"input {reference} is not in the store; upload its file again (`farm upload`)") from None
    if reference_of(data) != reference:
        raise NotFound(f"input {reference} is damaged in the store; delete it there and upload its file again")
    return data


def has_input(objects: ObjectStore, reference: str) -> bool:
    return objects.exists(_key(reference))


def _key(reference: str) -> str:
    found = REFERENCE.fullmatch(reference)
    if not found:
        raise NotFound(f"not an input: {reference!r}; expected sha256: and 64 hexadecimal digits")
    return f"inputs/{found[1]}"
