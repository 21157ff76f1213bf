"""What a picture's file says of how it was made: metadata of the farm's own and of other programs.

What of it can be taken over is a request; the rest is kept by name, and people are told (`files.leftovers`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.intake.files import comfyui, infotexts, invokeai, other_pictures
from scheduler.intake.files.columns import Row
from scheduler.intake.files.json_text import read_json
from scheduler.intake.files.leftovers import Leftovers, request_of_most
from scheduler.intake.picture_texts import OURS, texts_in
from storage.errors import BadSpecification, InvalidInput
from storage.spec.picture import MAX_SEED, Request, Spec, read_spec

#: Texts of programs whose metadata is not read → the program.
_OTHERS: Mapping[str, str] = {
    "Dream": "InvokeAI before version 2",
    "use_stable_diffusion_model": "Easy Diffusion",
    "workflow": "ComfyUI, without the graph that was run",
}


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """Hold what a picture's file says: by which program, with what."""

    program: str
    #: Its prompt is None if the picture has none that can be drawn.
    request: Request
    #: Of the farm's own: the whole specification, and what it was made with.
    spec: Spec | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)
    #: Of the farm's JPEG and WebP: which pixels it made, before they were converted (`storage.objects.pixels`).
    pixels: str | None = None
    #: What the file says beside, and is not taken over.
    left: Leftovers = field(default_factory=Leftovers)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of a picture that it names, as JSON can write them."""
        return self.request.model_dump(mode="json", exclude_none=True, exclude={"labels", "custom_id"})


def read_picture(path: Path) -> MadeBy:
    """Read what a picture's file says of how it was made.

    Raises InvalidInput for what is no picture or says nothing, BadSpecification for what cannot be read as it is meant.
    """
    texts = texts_in(path)
    for key, read in _READERS.items():
        # Other programs write comments, too, which are words.
        if key in texts and (key != "Comment" or texts[key].lstrip().startswith("{")):
            try:
                return read(texts)
            except BadSpecification as error:
                raise BadSpecification(f"{path}: {error}") from None
    for key, what in _OTHERS.items():
        if key in texts:
            raise InvalidInput(f"{path}: its metadata is that of {what}, which is not read")
    raise InvalidInput(
        f"{path}: says nothing of how it was made; the farm, the web UI, ComfyUI, InvokeAI and others write it into "
        "their files, and programs that convert pictures often drop it"
    )


def _ours(texts: Mapping[str, str]) -> MadeBy:
    try:
        said = read_json(texts[OURS])
        spec = read_spec(json.dumps(said["spec"]))
        made_with, pixels = dict(said["made_with"]), said.get("pixels_sha256")
    except (ValueError, TypeError, KeyError):
        raise BadSpecification("its recipe is damaged") from None
    fields = {name: value for name, value in spec.fields().items() if name != "version"}
    known = {name: value for name, value in fields.items() if name in Request.model_fields and value is not None}
    if spec.prompt_embeds is not None:
        known.pop("prompt", None)
    return MadeBy(
        program="the farm",
        request=Request.parse(known),
        spec=spec,
        made_with=made_with,
        pixels=pixels if isinstance(pixels, str) else None,
    )


def _parameters(texts: Mapping[str, str]) -> MadeBy:
    """Read the text of the web UI and its kin; Fooocus and SwarmUI write JSON under its name."""
    text, left = texts["parameters"], Leftovers()
    if text.lstrip().startswith("{") and (said := _object(text)) is not None:
        program, row = other_pictures.of_parameters(said, left)
        return _of_row(program, row, left)
    row, ours = infotexts.row_of(text, left)
    return _of_row("the farm" if ours else "the web UI", row, left)


def _comfyui(texts: Mapping[str, str]) -> MadeBy:
    if "use_stable_diffusion_model" in texts:
        raise BadSpecification("its metadata is that of Easy Diffusion, which is not read")
    if (graph := _object(texts["prompt"])) is None:
        raise BadSpecification("its graph of ComfyUI is not JSON")
    if not comfyui.is_graph(graph):
        raise BadSpecification("its text `prompt` is no graph of ComfyUI")
    left = Leftovers()
    return _of_row("ComfyUI", comfyui.row_of("", graph, left), left)


def _invokeai(texts: Mapping[str, str]) -> MadeBy:
    metadata = _object(texts["invokeai_metadata"])
    if metadata is None or not invokeai.is_metadata(metadata):
        raise BadSpecification("its metadata of InvokeAI names no prompt")
    left = Leftovers()
    return _of_row("InvokeAI", invokeai.row_of("", metadata, left), left)


def _old_invokeai(texts: Mapping[str, str]) -> MadeBy:
    if (metadata := _object(texts["sd-metadata"])) is None:
        raise BadSpecification("its metadata of InvokeAI is not JSON")
    left = Leftovers()
    return _of_row("InvokeAI", other_pictures.of_old_invokeai(metadata, left), left)


def _novelai(texts: Mapping[str, str]) -> MadeBy:
    comment = _object(texts["Comment"])
    if comment is None or not {"prompt", "uc", "steps"} & comment.keys():
        raise BadSpecification("its comment is no metadata of NovelAI")
    left = Leftovers()
    row = other_pictures.of_novelai(comment, texts.get("Description"), left)
    left.unread |= {name: texts[name] for name in ("Source", "Software") if name in texts}
    return _of_row("NovelAI", row, left)


#: Keys of texts → how they are read; one that says more comes first.
_READERS: Mapping[str, Callable[[Mapping[str, str]], MadeBy]] = {
    OURS: _ours,
    "invokeai_metadata": _invokeai,
    "sd-metadata": _old_invokeai,
    # Of what has both, a node of ComfyUI's wrote the shorter one for other readers.
    "parameters": _parameters,
    "prompt": _comfyui,
    "Comment": _novelai,
}


def _object(text: str) -> dict[str, Any] | None:
    """Return an object of JSON, None for what is none. Constants that only JavaScript has are read as nothing."""
    try:
        found = read_json(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _of_row(program: str, row: Row, left: Leftovers) -> MadeBy:
    cells = dict(row.cells)
    seed = _whole(cells.get("seed"))
    if seed is not None and seed > MAX_SEED:
        # ComfyUI draws seeds of 64 bits. Torch seeds its generator on the CPU with the lowest 32.
        cells["seed"] = str(seed & MAX_SEED) if not row.typed else seed & MAX_SEED
        left.not_done[f"seed {seed}"] = f"taken as {seed & MAX_SEED}, whose noise is the same"
    return MadeBy(program=program, request=request_of_most(row._replace(cells=cells), left), left=left)


def _whole(seed: Any) -> int | None:
    if isinstance(seed, str) and seed.isdecimal() and len(seed) <= 20:
        return int(seed)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None
