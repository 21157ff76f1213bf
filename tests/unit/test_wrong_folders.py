"""Folders in Diffusers layout as people have them: what cannot be loaded is refused with what it is and what to do."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from scheduler.local.new_entries import check_model, entry_for
from storage.errors import BadSpecification, InvalidInput
from storage.spec.models import DiffusersModel
from storage.spec.picture import Request
from storage.spec.registry import parse_registry
from storage.spec.wrong_files import wrong_in_files
from storage.spec.wrong_folders import only_variant, variant_of

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "none": [None, None]}
UNET = "diffusion_pytorch_model"
SHARDS = [f"{UNET}-0000{number}-of-00002.safetensors" for number in (1, 2)]


def folder(path: Path, *files: str, index: Mapping[str, object] = INDEX) -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps(index))
    for name in files:
        content = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}) if name.endswith(".json") else ""
        (path / "unet" / name).write_text(content)
    return path


def wrong(path: Path, variant: str | None = None) -> str | None:
    return wrong_in_files(DiffusersModel(kind="diffusers", alias="m", source=str(path), variant=variant))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (f"{UNET}.safetensors", None),
        (f"{UNET}.fp16.safetensors", "fp16"),
        (f"{UNET}.fp16-00001-of-00002.safetensors", "fp16"),
        (f"{UNET}-00001-of-00002.fp16.safetensors", "fp16"),
        (SHARDS[0], None),
    ],
)
def test_a_files_variant_is_in_its_name(name: str, variant: str | None) -> None:
    assert variant_of(Path(name)) == variant


@pytest.mark.parametrize(
    ("files", "variant", "words"),
    [
        ([f"{UNET}.safetensors"], None, None),
        ([f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"], None, None),
        ([f"{UNET}.fp16.safetensors"], "fp16", None),
        ([f"{UNET}.fp16.safetensors"], None, 'unet has weights of the variant fp16 alone: add variant = "fp16"'),
        ([f"{UNET}.bin"], None, f"its weights are pickled (unet/{UNET}.bin)"),
        ([*SHARDS, f"{UNET}.safetensors.index.json"], None, None),
        ([SHARDS[0], f"{UNET}.safetensors.index.json"], None, f"unet lacks {SHARDS[1]}, which {UNET}"),
        ([f"{UNET}.fp16.safetensors", f"{UNET}.safetensors.index.json"], "fp16", None),
        ([], None, None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_weights_is_told_from_their_names(
    files: list[str], variant: str | None, words: str | None, tmp_path: Path
) -> None:
    said = wrong(folder(tmp_path / "m", *files), variant)
    assert said is None if words is None else words in str(said)


def test_pipelines_for_other_programs_are_refused_at_the_door(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "model.onnx", index={**INDEX, "_class_name": "OnnxStableDiffusionPipeline"})
    registry = parse_registry(f'[models.m]\nkind = "diffusers"\nsource = "{path}"', where="x")
    words = "m cannot be loaded: it is a OnnxStableDiffusionPipeline, for ONNX Runtime; take .* for PyTorch"
    with pytest.raises(BadSpecification, match=words):
        registry.resolve(Request(prompt="a star"), seed=1)
    with pytest.raises(InvalidInput, match="for ONNX Runtime; .* nothing was written"):
        check_model("m", entry_for(str(path), alias="m", is_lora=False).keys)


def test_a_folder_of_one_variant_is_added_with_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", f"{UNET}.fp16.safetensors")
    assert only_variant(path) == "fp16"
    assert entry_for(str(path), alias="m", is_lora=False).keys["variant"] == "fp16"
    assert "variant" not in entry_for(str(folder(tmp_path / "n", f"{UNET}.safetensors")), alias="n", is_lora=False).keys


def test_what_is_fetched_meanwhile_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "m", SHARDS[0], f"{UNET}.safetensors.index.json")
    assert wrong(path) is not None
    (path / "unet" / SHARDS[1]).write_text("")
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    assert wrong(path) is None
