"""Inputs (conditioning images, embeddings): checked, stored once, and named in specifications by their hash."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import safetensors
from PIL import Image, UnidentifiedImageError

from scheduler.intake.admission import Submitter
from scheduler.intake.decoded_size import check_decoded_size
from scheduler.intake.picture_parts import check_parts
from scheduler.intake.requests import BadRows, SourcedRequest, at
from storage.access.uploads import Uploads
from storage.errors import BadSpecification
from storage.spec.controls import REFERENCE, Controls
from storage.spec.picture import Spec

MAX_BYTES = 256 * 2**20
#: Image formats with small, well-tested decoders.
_FORMATS = ("PNG", "JPEG", "WEBP")
#: Modes that Pillow converts to RGB faithfully: not 16 or 32 bits per channel.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
#: Of a safetensors file: the names and shapes of its tensors.
_MOST_HEADER_BYTES = 2**16
_SUFFIXES = (".safetensors", ".png", ".jpg", ".jpeg", ".webp")
_DTYPES = {"F16", "BF16", "F32"}


def upload(uploads: Uploads, submitter: Submitter, file: Path) -> str:
    """Check a file, store it and return its reference. Idempotent.

    Raises BadSpecification if it is neither an image nor embeddings that a pipeline could use, and what
    `Uploads.keep` raises.
    """
    data = _read(file)
    try:
        check_embeddings(data) if file.suffix == ".safetensors" else check_image(data)
    except ValueError as error:
        others = "" if file.suffix.lower() in _SUFFIXES else "; embeddings are in a file that ends with .safetensors"
        raise BadSpecification(f"{file}: {error}{others}") from None
    return uploads.keep(io.BytesIO(data), submitter.uploader)


def check_image(data: bytes) -> None:
    """Check that this is an image that can condition a picture. Raises ValueError."""
    scans = check_parts(data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_decoded_size(image, scans=scans)
            # The photos of many phones (MPO) are JPEG with a preview or a gain map behind the picture.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise ValueError(
                    f"an animation of {getattr(image, 'n_frames', 1)} frames; a single picture is required"
                )
            if image.mode not in _MODES:
                raise ValueError(f"unsupported pixel format {image.mode}; save it with 8 bits per channel")
            image.load()
    except UnidentifiedImageError:
        # Pillow's own words name an object in memory.
        raise ValueError(f"not a complete {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # These are how Pillow reports an invalid file.
        raise ValueError(f"not a complete {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image ({error})") from None


def check_embeddings(data: bytes) -> None:
    """Check that this is a safetensors file with one picture's `prompt_embeds`. Raises ValueError."""
    if (header := int.from_bytes(data[:8], "little")) > _MOST_HEADER_BYTES and header < len(data):
        # A million empty tensors would be a gigabyte of objects.
        raise ValueError(f"its header has {header:,} bytes; that of one picture's embeddings has a few hundred")
    try:
        tensors = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None
    if "prompt_embeds" not in tensors:
        raise ValueError(f"no tensor named prompt_embeds; found {', '.join(sorted(tensors)) or 'none'}")
    for name, tensor in tensors.items():
        ranks = (1, 2) if "pooled" in name else (2, 3)
        shape = tensor["shape"]
        if len(shape) not in ranks or (len(shape) == ranks[1] and shape[0] != 1) or 0 in shape:
            expected = "(width) or (1, width)" if "pooled" in name else "(tokens, width) or (1, tokens, width)"
            raise ValueError(f"{name} has the shape {tuple(shape)}; expected {expected}")
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is of type {tensor['dtype']}; expected one of {', '.join(sorted(_DTYPES))}")


class StoredInputs(dict[str, str | BadSpecification]):
    """Map the names of inputs to their references, or to what is wrong with them; each is looked up once."""

    def __init__(self, uploads: Uploads, submitter: Submitter) -> None:
        """Look inputs up for somebody: those who may name local files have them stored."""
        super().__init__()
        self._uploads = uploads
        self._submitter = submitter

    def __missing__(self, name: str) -> str | BadSpecification:
        try:
            found: str | BadSpecification = _reference_of(self._uploads, name, self._submitter)
        except BadSpecification as error:
            # Without its frames, which hold all that was read there.
            found = error.with_traceback(None)
        self[name] = found
        return found

    def fill(self, asked: Iterable[SourcedRequest], *, beyond_wrong: bool = False) -> None:
        """Look up every input that requests name, up to the first that is missing or wrong, or beyond it."""
        for one in asked:
            for _, name in _named(one.request):
                if isinstance(self[name], BadSpecification) and not beyond_wrong:
                    # Whoever reads these requests gets no further.
                    return


def stored_inputs(uploads: Uploads, asked: Iterable[SourcedRequest], submitter: Submitter) -> StoredInputs:
    """Return the inputs that requests name."""
    known = StoredInputs(uploads, submitter)
    known.fill(asked)
    return known


def check_stored(uploads: Uploads, specs: Iterable[Spec]) -> None:
    """Check that the inputs of complete specifications are in the store. Raises BadSpecification."""
    for field, name in {named for spec in specs for named in _named(spec)}:
        try:
            _check_there(uploads, name)
        except BadSpecification as error:
            raise BadSpecification(f"{field}: {error}") from None


def with_references(
    asked: Iterable[SourcedRequest], known: StoredInputs, bad: BadRows | None = None
) -> Iterator[SourcedRequest]:
    """Replace file names with the references of stored inputs.

    Raises BadSpecification for an input that is missing or wrong, with the request's place and the field, unless `bad`
    leaves such requests out.
    """
    bad = bad or BadRows()
    for one in asked:
        request = one.request
        if request.control_images is None and request.prompt_embeds is None:
            yield one
            continue
        named = _named(request)
        wrong = next(((field, known[name]) for field, name in named if isinstance(known[name], BadSpecification)), None)
        if wrong is not None:
            field, error = wrong
            bad.met(at(one.where, BadSpecification(f"{field}: {error}")))
            continue
        changed: dict[str, object] = {}
        if request.control_images is not None:
            changed["control_images"] = tuple(known[name] for name in request.control_images)
        if request.prompt_embeds is not None:
            changed["prompt_embeds"] = known[request.prompt_embeds]
        yield one._replace(request=request.model_copy(update=changed)) if changed else one


def _named(controls: Controls) -> list[tuple[str, str]]:
    """Return the named inputs, each with its field."""
    named = [("control_images", name) for name in controls.control_images or ()]
    return named if controls.prompt_embeds is None else [*named, ("prompt_embeds", controls.prompt_embeds)]


def _reference_of(uploads: Uploads, name: str, submitter: Submitter) -> str:
    if not REFERENCE.fullmatch(name):
        if not submitter.local_files:
            raise BadSpecification(
                f"{name[:60]!r} is not a stored input; upload its file first (POST /v1/files or `farm upload`)"
            )
        return upload(uploads, submitter, Path(name))
    _check_there(uploads, name)
    return name


def _check_there(uploads: Uploads, reference: str) -> None:
    if not uploads.has(reference):
        raise BadSpecification(
            f"{reference} is not in the store; upload its file first (POST /v1/files or `farm upload`)"
        )


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadSpecification(f"{file}: larger than {MAX_BYTES // 2**20} MB")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise BadSpecification(f"{file}: {getattr(error, 'strerror', None) or error}") from None
