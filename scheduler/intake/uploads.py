"""Conditioning images and embeddings at the door: checked, stored once, and named in specifications by their hash."""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import safetensors
from PIL import Image

from scheduler.intake.requests import BadRows, SourcedRequest, at
from storage.errors import BadSpecification
from storage.objects.inputs import has_input, put_input
from storage.objects.store import ObjectStore
from storage.spec.controls import REFERENCE
from storage.spec.picture import Request

MAX_BYTES = 256 * 2**20
MAX_PIXELS = 64_000_000
#: Kinds of image file with small, well-tested decoders.
_FORMATS = ("PNG", "JPEG", "WEBP")
#: What Pillow turns into RGB without loss of meaning: not 16 or 32 bits a channel.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_DTYPES = {"F16", "BF16", "F32"}


def upload(objects: ObjectStore, file: Path) -> str:
    """Check a file and store it; its reference. Idempotent.

    Raises BadSpecification if it is neither an image nor embeddings that a pipeline could use.
    """
    data = _read(file)
    try:
        check_embeddings(data) if file.suffix == ".safetensors" else check_image(data)
    except ValueError as error:
        raise BadSpecification(f"{file}: {error}") from None
    return put_input(objects, data)


def check_image(data: bytes) -> None:
    """Raises ValueError if this is no image that can condition a picture."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width}×{image.height} is {image.width * image.height / 1e6:.0f} megapixels; "
                    f"the most is {MAX_PIXELS / 1e6:.0f}"
                )
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"an animation of {getattr(image, 'n_frames', 1)} pictures; give one")
            if image.mode not in _MODES:
                raise ValueError(f"pixels of the kind {image.mode}; save it with 8 bits a channel")
            image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow has no other way to say that a file is not what it should be.
        raise ValueError(f"not a whole {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image ({error})") from None


def check_embeddings(data: bytes) -> None:
    """Raises ValueError if this is no safetensors file of `prompt_embeds` of one picture and what belongs to them."""
    try:
        tensors = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None
    if "prompt_embeds" not in tensors:
        raise ValueError(f"has no tensor prompt_embeds; it has {', '.join(sorted(tensors)) or 'none'}")
    for name, tensor in tensors.items():
        ranks = (1, 2) if "pooled" in name else (2, 3)
        shape = tensor["shape"]
        if len(shape) not in ranks or (len(shape) == ranks[1] and shape[0] != 1) or 0 in shape:
            expected = "(width) or (1, width)" if "pooled" in name else "(tokens, width) or (1, tokens, width)"
            raise ValueError(f"{name} has the shape {tuple(shape)}; expected {expected}")
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is of type {tensor['dtype']}; expected one of {', '.join(sorted(_DTYPES))}")


def upload_all(objects: ObjectStore, asked: Iterable[SourcedRequest]) -> dict[str, str | BadSpecification]:
    """Store every file that requests name, each once: name → reference, or what is wrong with the file."""
    known: dict[str, str | BadSpecification] = {}
    for _, request in asked:
        for name in _named(request):
            if name not in known:
                try:
                    known[name] = _stored(objects, name)
                except BadSpecification as error:
                    known[name] = error
    return known


def _stored(objects: ObjectStore, name: str) -> str:
    if not REFERENCE.fullmatch(name):
        return upload(objects, Path(name))
    if not has_input(objects, name):
        raise BadSpecification(f"{name} is not in the store; upload its file (`farm upload`)")
    return name


def with_references(
    asked: Iterable[SourcedRequest], known: Mapping[str, str | BadSpecification], bad: BadRows | None = None
) -> Iterator[SourcedRequest]:
    """The requests with stored inputs in place of the files that were uploaded.

    Raises BadSpecification for a file that is missing or wrong, with the request's place, unless `bad` leaves such
    requests out.
    """
    bad = bad or BadRows()
    for where, request in asked:
        names = _named(request)
        wrong = next((known[name] for name in names if isinstance(known.get(name), BadSpecification)), None)
        if isinstance(wrong, BadSpecification):
            bad.met(at(where, wrong))
            continue
        changed: dict[str, object] = {}
        if request.control_images is not None:
            changed["control_images"] = tuple(known.get(name, name) for name in request.control_images)
        if request.prompt_embeds is not None:
            changed["prompt_embeds"] = known.get(request.prompt_embeds, request.prompt_embeds)
        yield SourcedRequest(where, request.model_copy(update=changed) if changed else request)


def _named(request: Request) -> list[str]:
    return [*(request.control_images or ()), *([request.prompt_embeds] if request.prompt_embeds is not None else [])]


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadSpecification(f"{file}: larger than {MAX_BYTES // 2**20} MB")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise BadSpecification(f"{file}: {getattr(error, 'strerror', None) or error}") from None
