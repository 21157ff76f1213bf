"""When the files of a loaded model count as replaced."""

import os
from pathlib import Path

import pytest

from storage.spec.models import DiffusersModel
from tests.safetensors_files import SD, written
from worker.serving.loaded_files import LoadedFiles


@pytest.fixture
def model(tmp_path: Path) -> DiffusersModel:
    parts = {name: str(written(tmp_path / f"{name}.safetensors", SD)) for name in ("mine", "vae", "net")}
    folder = tmp_path / "small" / "unet"
    folder.mkdir(parents=True)
    written(folder / "diffusion_pytorch_model.safetensors", SD)
    given = {"source": parts["mine"], "vae": parts["vae"], "controlnets": [parts["net"], str(tmp_path / "small")]}
    return DiffusersModel.model_validate({"alias": "mine", "kind": "diffusers", **given})


@pytest.mark.parametrize(
    "name", ["mine.safetensors", "vae.safetensors", "net.safetensors", "small/unet/diffusion_pytorch_model.safetensors"]
)
def test_one_of_the_same_length_and_time_in_the_place_of_another_is_another(
    model: DiffusersModel, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    loaded = LoadedFiles(model)
    assert loaded.are_same()
    assert not loaded.are_replaced()
    before = file.stat()
    other = written(tmp_path / "other", SD, metadata=None)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not loaded.are_same()
    assert loaded.are_replaced()


def test_what_is_gone_or_only_half_there_leaves_what_is_loaded_as_it_is(model: DiffusersModel, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    whole = file.read_bytes()
    loaded = LoadedFiles(model)
    file.unlink()
    assert loaded.are_same()
    file.write_bytes(whole[: len(whole) // 2])
    assert not loaded.are_same()
    assert not loaded.are_replaced()
    file.write_bytes(whole)
    assert loaded.are_replaced()
