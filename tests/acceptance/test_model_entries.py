"""`farm models add` and `farm models check-file`, as one types them."""

import shutil
from pathlib import Path

import pytest

from storage.spec.model_files import SHIPPED
from tests.acceptance.command import Home
from tests.forks import Starter


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Home:
    return Home(tmp_path, starter)


def test_a_folder_is_added_shown_and_checked(home: Home) -> None:
    folder = home.folder / "weights"
    shutil.copytree(SHIPPED / "shapes", folder)
    added = home.farm("models", "add", "mine", "weights", "--set", "width=64", "--set", "height=64", "--default")
    file = home.path / "models.toml"
    assert added.out == f"added model mine to {file}: StableDiffusionPipeline, 64×64\n"
    assert f'source = "{folder}"' in file.read_text()
    told = {row["alias"]: row for row in home.farm("models", "--json").json}
    assert (told["mine"]["default"], told["mine"]["source"], "shapes" in told) == (True, str(folder), True)
    lora = home.farm("models", "add", "ink", "someone/ink", "--lora", "--set", 'models=["mine"]', "--json").json
    assert (lora["alias"], lora["models"]) == ("ink", ["mine"])
    checked = home.farm("models", "check-file")
    assert "models.mine" in checked.out
    assert "loras.ink" in checked.out
    assert checked.err == f"{file}: 4 models, default mine, 1 LoRA\n"

    shutil.rmtree(folder)
    assert f"there is no {folder}" in home.farm("models", "check-file", code=2).out


def test_what_is_wrong_is_one_clear_line_and_not_written(home: Home) -> None:
    home.farm("models", "add", "mine", "./nowhere", code=2).complains(f"there is no {home.folder}/nowhere; nothing was")
    home.farm("models", "add", "mine", "a/b", "--set", "steps=4", code=2).complains("steps here is num_inference_steps")
    home.farm("models", "add", "Über", "a/b", code=2).complains("alias")
    home.farm("models", "add", "Über", "a/b", "--lora", code=2).complains("alias")
    (home.folder / "empty").mkdir()
    (home.folder / "one.safetensors").touch()
    for source in ("empty", "./one.safetensors", ""):
        home.farm("models", "add", "mine", source, code=2).complains("is no folder in Diffusers layout")
    for twice in (("source=c/d",), ("kind=simulated",), ("width=64", "width=128")):
        options = [part for one in twice for part in ("--set", one)]
        assert f"--set {twice[0].partition('=')[0]}: " in home.farm("models", "add", "x", "a/b", *options, code=2).err
    assert "expected KEY=VALUE" in home.farm("models", "add", "mine", "a/b", "--set", "width", code=2).err
    assert "a picture switches a LoRA on" in home.farm("models", "add", "x", "a/b", "--lora", "--default", code=2).err
    home.farm("models", "check-file", code=2).complains("there is no .*models.toml; the farm uses the models that come")
    (home.folder / "own.toml").write_text('[models.a]\nkind = "simulated"\nstep = 4\n')
    home.farm("models", "check-file", "own.toml", code=2).complains(r"own.toml: \[models.a\] step: unknown field")
    assert not (home.path / "models.toml").exists()
