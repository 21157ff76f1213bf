"""What a picture's file says of how it was made: the farm's own, the web UI's, ComfyUI's and InvokeAI's metadata.

PNG files have it in text chunks, JPEG and WebP in EXIF: where the web UI writes it (`UserComment`), and ComfyUI
(`Model` and `Make`, as `prompt:{…}`). Pixels are not decoded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from scheduler.intake.files import comfyui, invokeai, pasted
from scheduler.intake.files.columns import Row, request_of
from scheduler.intake.files.json_text import read_json
from scheduler.intake.requests import BadRows
from storage.errors import BadSpecification, InvalidInput
from storage.spec.picture import Request, Spec, read_spec

#: Where the farm writes a picture's recipe.
_OURS = "diffusion-farm"
#: Text chunks of programs whose metadata is not read → the program.
_OTHERS: Mapping[str, str] = {
    "sd-metadata": "InvokeAI before version 3",
    "Dream": "InvokeAI before version 2",
    "fooocus_scheme": "Fooocus",
    "sui_image_params": "SwarmUI",
    "workflow": "ComfyUI, without the graph that was run",
}
_KINDS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """Hold what a picture's file says: by which program, with what."""

    program: str
    request: Request
    #: Of the farm's own: the whole specification, and what it was made with.
    spec: Spec | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)
    #: What the file says beside, which is not read.
    unread: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of a picture that it names, as JSON can write them."""
        return self.request.model_dump(mode="json", exclude_none=True, exclude={"labels", "custom_id"})


def read_picture(path: Path) -> MadeBy:
    """Read what a picture's file says of how it was made.

    Raises InvalidInput for what is no picture or says nothing, BadSpecification for what cannot be read as it is meant.
    """
    texts = _texts(path)
    for key, what in _OTHERS.items():
        if key in texts and texts.keys().isdisjoint({_OURS, "parameters", "prompt", "invokeai_metadata"}):
            raise InvalidInput(f"{path}: its metadata is that of {what}, which is not read")
    for key, read in (
        (_OURS, _ours),
        ("invokeai_metadata", _invokeai),
        ("prompt", _comfyui),
        ("parameters", _infotext),
    ):
        if key in texts:
            try:
                return read(texts[key])
            except BadSpecification as error:
                raise BadSpecification(f"{path}: {error}") from None
    raise InvalidInput(
        f"{path}: says nothing of how it was made; the farm, the web UI, ComfyUI and InvokeAI write it into their "
        "files, and programs that convert pictures often drop it"
    )


def _texts(path: Path) -> dict[str, str]:
    """Return the texts in a picture's file by their keys. Raises InvalidInput."""
    try:
        with Image.open(path, formats=_KINDS) as picture:
            # Of a PNG, its text chunks are among these.
            found = {str(key): text for key, text in picture.info.items() if isinstance(text, str)}
            exif = picture.getexif()
            comment: Any = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
            others = [exif.get(tag) for tag in (ExifTags.Base.Model, ExifTags.Base.Make)]
    except OSError as error:
        what = error.strerror or "not a PNG, JPEG or WebP picture"
        raise InvalidInput(f"{path}: {what}") from None
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Of a text that unpacks to more than it should, and of a damaged file.
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    if comment is not None and (text := _comment(comment)):
        found.setdefault("parameters", text)
    for said in others:
        key, separator, rest = str(said or "").partition(":")
        if separator and key in ("prompt", "workflow"):
            found.setdefault(key, rest)
    return found


def _comment(comment: Any) -> str:
    """Return the text of EXIF's UserComment, whose first eight bytes name its encoding."""
    if isinstance(comment, str):
        return comment.strip("\0 ")
    kind, text = bytes(comment[:8]).rstrip(b"\0"), bytes(comment[8:])
    if kind == b"UNICODE":
        # Most write big-endian; in a little-endian text of letters, each second byte is 0.
        little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", errors="replace").strip("\0 ")
    return (text if kind == b"ASCII" else bytes(comment)).decode(errors="replace").strip("\0 ")


def _ours(text: str) -> MadeBy:
    try:
        said = read_json(text)
        spec = read_spec(json.dumps(said["spec"]))
        made_with = said["made_with"]
    except (ValueError, TypeError, KeyError):
        raise BadSpecification("its recipe is damaged") from None
    fields = {name: value for name, value in spec.fields().items() if name != "version"}
    known = {name: value for name, value in fields.items() if name in Request.model_fields and value is not None}
    if spec.prompt_embeds is not None:
        known.pop("prompt", None)
    return MadeBy(program="the farm", request=Request.parse(known), spec=spec, made_with=made_with)


def _infotext(text: str) -> MadeBy:
    # Of a prompt with empty lines a prompt file would make several.
    lines = (("parameters", line) for line in text.splitlines() if line.strip())
    rows = list(pasted.rows(lines, BadRows()))
    if len(rows) != 1:
        raise BadSpecification("its metadata is not that of one picture of the web UI")
    # Of the farm's JPEG and WebP, it is all that there is.
    ours = str(rows[0].cells.get("Version", "")).startswith(_OURS)
    return _of_row("the farm" if ours else "the web UI", rows[0])


def _comfyui(text: str) -> MadeBy:
    try:
        graph = read_json(text)
    except ValueError as error:
        raise BadSpecification(f"its graph of ComfyUI is not JSON: {error}") from None
    if not comfyui.is_graph(graph):
        raise BadSpecification("its text `prompt` is no graph of ComfyUI")
    return _of_row("ComfyUI", comfyui.row_of("", graph))


def _invokeai(text: str) -> MadeBy:
    try:
        metadata = read_json(text)
    except ValueError as error:
        raise BadSpecification(f"its metadata of InvokeAI is not JSON: {error}") from None
    if not isinstance(metadata, dict) or not invokeai.is_metadata(metadata):
        raise BadSpecification("its metadata of InvokeAI names no prompt")
    return _of_row("InvokeAI", invokeai.row_of("", metadata))


def _of_row(program: str, row: Row) -> MadeBy:
    request = request_of(row._replace(where=""))
    return MadeBy(program=program, request=request, unread=request.labels or {})
