"""Look at a file, a folder or a repository that is to be added to the registry: what it is, and what its entry says."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.errors import InvalidInput
from storage.spec.aliases import alias_of
from storage.spec.lora_facts import licence, lora_facts
from storage.spec.lora_header import USUAL_NAME, half_of_a_pair, wrong_in_header
from storage.spec.model_files import (
    is_there,
    local_folder,
    named_folder,
    own_configuration,
    own_pipeline,
    public_source,
)
from storage.spec.models import SINGLE_FILE, DiffusersModel, Lora, Weights, wrong_source
from storage.spec.safetensors_header import read_header
from storage.spec.single_file import FAMILY_NAMES, SingleFile, has_averages, look_into, stated
from storage.spec.wrong_files import unread_control, wrong_in_files
from storage.spec.wrong_folders import only_variant

#: What each family draws best: the sides of the pictures that it was trained on.
_SIDES = {"sd1": 512, "sd2": 512, "sdxl": 1024}
_V_SIDE_OF_SD2 = 768
_RESOLUTION = re.compile(r"(\d+)x(\d+)")
_LICENCE_OF_A_CARD = re.compile(r"^license(?:_name)?:\s*(\S.*)$", re.MULTILINE)
#: Where else than in a table of its own a file belongs.
_ELSEWHERE = {
    "ControlNet": "name it in a model: farm models add SOURCE --set 'controlnets=[\"{file}\"]'",
    "VAE": "name it in a model: farm models add SOURCE --set vae={file}",
    "denoiser": "it lacks text encoders and VAE; add the folder in Diffusers layout that it is part of",
    "text encoder": "add the folder in Diffusers layout that it is part of",
}


@dataclass(frozen=True, kw_only=True)
class NewEntry:
    """An entry that is to be written."""

    #: "models", "loras" or "embeddings".
    table: str
    alias: str
    keys: Mapping[str, Any]
    #: What was found out and is no key.
    facts: Sequence[str] = field(default_factory=tuple)


def entry_for(source: str, *, alias: str | None, is_lora: bool) -> NewEntry:
    """Return the entry of a resolved source, with what its files say.

    Args:
        is_lora: it is said to be one: a repository or folder that cannot tell.

    Raises InvalidInput if it is nothing that has an entry, or is not there.
    """
    if wrong := wrong_source(source):
        raise InvalidInput(f"{wrong}; nothing was written")
    path = named_folder(Weights(source=source))
    alias = alias or alias_of(_name(source, path))
    if path is not None and not is_there(path):
        raise InvalidInput(f"there is no {path}; nothing was written")
    if path is not None and path.is_file():
        return _of_file(source, path, alias, is_lora=is_lora)
    if is_lora:
        return NewEntry(table="loras", alias=alias, keys={"source": source})
    keys = {"kind": "diffusers", "source": source}
    if path is not None:
        _check_folder(source, path)
        if variant := only_variant(path):
            keys["variant"] = variant
    facts = _card_licence(local_folder(Weights(source=source)))
    return NewEntry(table="models", alias=alias, keys=keys | _native_size(source), facts=facts)


def _check_folder(source: str, path: Path) -> None:
    """Raise InvalidInput for a folder that is no model in Diffusers layout."""
    if not (path / "model_index.json").is_file():
        kinds = {file.name: _kind(file) for file in sorted(path.glob(f"*{SINGLE_FILE}"))}
        others = [
            f"{name} is {'damaged' if kind == 'damaged' else f'of another kind ({kind})'}"
            for name, kind in kinds.items()
            if kind != "LoRA"
        ]
        loras = f"; nor one of LoRAs alone: {others[0]}" if "LoRA" in kinds.values() else ""
        raise InvalidInput(f"{path} is no folder in Diffusers layout (no model_index.json){loras}; nothing was written")
    if own_pipeline(Weights(source=source)) is None:
        raise InvalidInput(
            f"{path / 'model_index.json'} names no class of a pipeline (_class_name); nothing was written"
        )


def is_lora_folder(source: str) -> bool:
    """Tell whether a resolved source is a folder of LoRA files, and of nothing that could be a model."""
    path = None if wrong_source(source) else named_folder(Weights(source=source))
    if (
        path is None
        or not is_there(path)
        or not path.is_dir()
        or (path / "model_index.json").exists()
        or (path / "config.json").exists()
    ):
        return False
    kinds = [_kind(file) for file in path.glob(f"*{SINGLE_FILE}")]
    return bool(kinds) and all(kind == "LoRA" for kind in kinds)


def is_one_lora(source: str, keys: Mapping[str, Any]) -> bool:
    """Tell whether one of a folder of LoRA files is meant: by `weight_name`, as the only one, by its usual name."""
    files = list(Path(source).glob(f"*{SINGLE_FILE}"))
    return len(files) == 1 or "weight_name" in keys or any(file.name == USUAL_NAME for file in files)


def check_model(alias: str, keys: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a model whose files the door would refuse, as far as they are here."""
    try:
        model = DiffusersModel.model_validate({**keys, "alias": alias})
    except ValidationError:
        # Said by whoever writes the entry, with its place.
        return
    if wrong := wrong_in_files(model):
        raise InvalidInput(f"{wrong}; nothing was written")


def check_lora(keys: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a LoRA whose file cannot be applied to anything, as far as it is here."""
    name = keys.get("weight_name")
    lora = Lora(alias="new", source=keys["source"], weight_name=name if isinstance(name, str) else None)
    path = named_folder(lora)
    wrong = wrong_in_header(lora, None)
    if not wrong and path is not None and path.is_file():
        wrong = half_of_a_pair(read_header(path).tensors.keys())
    if wrong:
        raise InvalidInput(f"{public_source(lora)} cannot be used: {wrong}; nothing was written")


def _kind(file: Path) -> str:
    try:
        return look_into(file).kind
    except (OSError, ValueError):
        return "damaged"


def _name(source: str, path: Path | None) -> str:
    name = source.rpartition("/")[2] if path is None else path.name
    return name.removesuffix(SINGLE_FILE).removeprefix("shipped:")


def _of_file(source: str, path: Path, alias: str, *, is_lora: bool) -> NewEntry:
    if not source.endswith(SINGLE_FILE):
        raise InvalidInput(f"{path} is no safetensors file and no folder in Diffusers layout; nothing was written")
    try:
        found = look_into(path)
    except ValueError as error:
        raise InvalidInput(f"{path} is no safetensors file that can be read: {error}; nothing was written") from None
    if is_lora and found.kind not in ("LoRA", "unknown"):
        raise InvalidInput(f"{path.name} is {found.words}, and no LoRA: leave --lora out; nothing was written")
    if found.kind == "LoRA" or is_lora:
        said = lora_facts(found.header)
        if said.ranks is not None and said.ranks[0] == 0:
            raise InvalidInput(f"{path.name} has matrices of rank 0, in which there is nothing; nothing was written")
        return NewEntry(table="loras", alias=alias, keys={"source": source}, facts=said.words)
    if found.kind == "embedding":
        vectors = next(iter(found.header.tensors.values())).shape
        facts = [f"{vectors[0] if len(vectors) > 1 else 1} vectors of {' and '.join(_widths(found))}"]
        return NewEntry(table="embeddings", alias=alias, keys={"source": source}, facts=facts)
    if found.kind == "ControlNet" and (wrong := unread_control(found)):
        raise InvalidInput(f"{path.name}: {wrong}; nothing was written")
    if found.kind != "checkpoint":
        what_to_do = _ELSEWHERE.get(found.kind, "nothing of the farm reads it").format(file=source)
        raise InvalidInput(f"{path.name} is {found.words}, which has no entry of its own: {what_to_do}")
    if found.unfit:
        raise InvalidInput(f"{path.name}: {found.unfit}; nothing was written")
    return NewEntry(
        table="models",
        alias=alias,
        keys={"kind": "diffusers", "source": source, **_size_of(found)},
        facts=_facts_of(found),
    )


def _widths(found: SingleFile) -> list[str]:
    return [str(tensor.shape[-1]) for tensor in found.header.tensors.values() if tensor.shape]


def _size_of(found: SingleFile) -> dict[str, int]:
    said = _RESOLUTION.fullmatch(stated(found.header, "modelspec.resolution") or "")
    sides = (int(said[1]), int(said[2])) if said else (0, 0)
    if not all(64 <= side <= 2048 and side % 8 == 0 for side in sides):
        side = _SIDES.get(found.family or "", 512)
        side = _V_SIDE_OF_SD2 if (found.family, found.prediction) == ("sd2", "v_prediction") else side
        sides = (side, side)
    return {"width": sides[0], "height": sides[1]}


def _facts_of(found: SingleFile) -> list[str]:
    said = licence(found.header)
    facts = [
        FAMILY_NAMES.get(found.family or "", ""),
        f"predicts {'v' if found.prediction == 'v_prediction' else 'noise (ε)'}" if found.prediction else "",
        "ends without signal (zero SNR)" if found.zero_snr else _zero_snr_in_vain(found),
        "its averaged weights (EMA) are not used" if has_averages(found) else "",
        f"licence: {said}" if said else "",
    ]
    return [fact for fact in facts if fact]


def _zero_snr_in_vain(found: SingleFile) -> str:
    said = "ztsnr" in found.header.tensors
    return "its ztsnr counts only where it predicts v, which it does not say (prediction_type)" if said else ""


def _native_size(source: str) -> dict[str, int]:
    """Return the size that a folder's UNet says it was trained on, where it is here and is a Stable Diffusion."""
    own = own_configuration(Weights(source=source))
    if own is None or not own.pipeline.startswith("StableDiffusion"):
        return {}
    try:
        vae = json.loads((local_folder(Weights(source=source)) / "vae" / "config.json").read_text(encoding="utf-8"))
        # Each of its blocks but one halves the sides, as `vae_scale_factor` of Diffusers' pipelines.
        side = int(own.denoiser["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"width": side, "height": side} if side % 8 == 0 and 8 <= side <= 2048 else {}


def _card_licence(folder: Path) -> list[str]:
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    # Its first lines, between two rows of dashes, are YAML.
    parts = card.split("---", 2)
    said = _LICENCE_OF_A_CARD.search(parts[1]) if card.startswith("---") and len(parts) == 3 else None
    return [f"licence: {said[1].strip()[:80]}"] if said else []
