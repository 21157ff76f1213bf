"""Objects of JSON in which other tools say how a picture was made: read where they are plain, else refused by name.

Taken for rows of ours, they would be drawn with half of what they say: some names are the same and mean other things.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scheduler.intake.files import comfyui, invokeai, pasted
from scheduler.intake.files.columns import Row
from scheduler.intake.files.json_text import read_json
from scheduler.intake.requests import BadRows, at
from storage.errors import BadSpecification

_AS_FIELDS = "give what it asks for as fields: prompt, negative_prompt, seed, steps, cfg_scale, sampler, width, height"
#: Keys of which one is enough → what such an object is, and what to do with it.
_BY_ONE_KEY: Mapping[str, str] = {
    **dict.fromkeys(
        ("alwayson_scripts", "override_settings", "enable_hr"),
        "a request of the web UI's API; POST it to /sdapi/v1/txt2img",
    ),
    **dict.fromkeys(
        ("Fooocus V2 Expansion", "ADM Guidance", "adm_guidance", "prompt_expansion"),
        f"Fooocus's log, whose styles and expansions are not known here; {_AS_FIELDS}",
    ),
    "use_stable_diffusion_model": f"Easy Diffusion's metadata, whose clip_skip is no number; {_AS_FIELDS}",
    **dict.fromkeys(("seed_mode", "seedMode"), f"Draw Things' metadata; {_AS_FIELDS}"),
    **dict.fromkeys(("uc", "noise_schedule"), f"NovelAI's metadata, whose uc is the negative prompt; {_AS_FIELDS}"),
    "sui_image_params": f"SwarmUI's metadata; {_AS_FIELDS}",
}
#: Keys that are there together → the same.
_BY_KEYS: Mapping[frozenset[str], str] = {
    frozenset({"method", "url", "body"}): "a line of OpenAI's batches; upload the file for POST /v1/batches",
    frozenset({"nodes", "edges"}): "a workflow of InvokeAI's; give the metadata of a picture, with settings",
    frozenset({"version", "input"}): "a request of Replicate's API; POST it to /v1/predictions",
}
#: Keys that rows of ours do not have.
_TELLING = frozenset({*_BY_ONE_KEY, *(key for keys in _BY_KEYS for key in keys)}) | {
    *("infotexts", "all_prompts", "positive_prompt", "nodes"),
}


def rows(objects: Iterable[Row], bad: BadRows) -> Iterator[Row]:
    """Yield the pictures that objects of JSON ask for; most are one row of ours.

    Raises BadSpecification with the place of one that is not read, unless `bad` leaves it out.
    """
    for row in objects:
        if isinstance(row.cells.get("prompt"), str) and row.cells.keys().isdisjoint(_TELLING):
            yield row
            continue
        try:
            found = [*_rows(row.where, row.cells)]
        except BadSpecification as error:
            bad.met(at(row.where, error))
        else:
            yield from found


def _rows(where: str, value: Mapping[str, Any]) -> Iterator[Row]:
    if "prompt" not in value and isinstance(value.get("info"), str) and "images" in value:
        # The web UI's whole answer: what it says of its pictures is JSON in text.
        yield from _rows(where, _object(value["info"]))
    elif "prompt" not in value and isinstance(value.get("info"), str) and "items" in value:
        # What the web UI reads of a picture's file.
        yield from _of_infotexts(where, [value["info"]])
    elif "infotexts" in value or "all_prompts" in value:
        yield from _of_infotexts(where, value.get("infotexts"))
    elif comfyui.is_graph(value):
        yield comfyui.row_of(where, value)
    elif comfyui.is_graph(value.get("prompt")):
        yield comfyui.row_of(where, value["prompt"])
    elif invokeai.is_metadata(value):
        yield invokeai.row_of(where, value)
    else:
        _refuse_others(value)
        yield Row(where, value)


def _refuse_others(value: Mapping[str, Any]) -> None:
    for key, what in _BY_ONE_KEY.items():
        if key in value:
            raise BadSpecification(f"{key}: this looks like {what}")
    for keys, what in _BY_KEYS.items():
        if keys <= value.keys():
            raise BadSpecification(f"{', '.join(sorted(keys))}: this looks like {what}")
    if value and all(isinstance(one, Mapping) and {"prompt", "outputs"} <= one.keys() for one in value.values()):
        raise BadSpecification("this looks like the history of ComfyUI's; give the graph in it alone, or Export (API)")
    if isinstance(value.get("nodes"), list) and "links" in value:
        raise BadSpecification(
            "nodes: this looks like a workflow of ComfyUI's, whose settings have no names; export it with Export (API)"
        )


def _of_infotexts(where: str, texts: Any) -> Iterator[Row]:
    """Yield the pictures of the web UI's `info`: each text says all of one, its own seed too."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadSpecification("infotexts: missing; of the web UI's info, they are what is read")
    for number, text in enumerate(texts):
        lines = ((f"infotexts.{number}", line) for line in text.splitlines())
        for row in pasted.rows(lines, BadRows()):
            yield row._replace(where=f"{where}: {row.where}")


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = read_json(text)
    except ValueError as error:
        raise BadSpecification(f"info: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadSpecification("info: not an object of JSON")
    return found
