"""`farm models add` and `farm models check-file`, as one types them."""

import re
import shutil
from pathlib import Path

import pytest

from storage.spec.model_files import SHIPPED
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.safetensors_files import LORA, SDXL, written


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Home:
    return Home(tmp_path, starter)


def test_a_folder_is_added_shown_and_checked(home: Home) -> None:
    folder = home.folder / "weights"
    shutil.copytree(SHIPPED / "shapes", folder)
    added = home.farm("models", "add", "mine", "weights", "--set", "width=64", "--set", "height=64", "--default")
    file = home.path / "models.toml"
    licence = "  licence: apache-2.0\n"
    assert added.out == f"added model mine to {file}: StableDiffusionPipeline, 64×64\n{licence}"
    assert "\n# licence: apache-2.0\n[models.mine]\n" in file.read_text()
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
    home.farm("models", "add", "Über", "a/b", code=2).complains("'Über' is no alias, .*; take ber")
    home.farm("models", "add", "Über", "a/b", "--lora", code=2).complains("alias")
    (home.folder / "empty").mkdir()
    (home.folder / "one.safetensors").touch()
    home.farm("models", "add", "mine", "./one.safetensors", code=2).complains("it is empty; .*; nothing was")
    home.farm("models", "add", "mine", "empty", code=2).complains("is no folder in Diffusers layout")
    home.farm("models", "add", "mine", "", code=2).complains("must name a folder, a safetensors file or a repository")
    for twice in (("source=c/d",), ("kind=simulated",), ("width=64", "width=128")):
        options = [part for one in twice for part in ("--set", one)]
        assert f"--set {twice[0].partition('=')[0]}: " in home.farm("models", "add", "x", "a/b", *options, code=2).err
    assert "expected KEY=VALUE" in home.farm("models", "add", "mine", "a/b", "--set", "width", code=2).err
    assert "a picture switches a LoRA on" in home.farm("models", "add", "x", "a/b", "--lora", "--default", code=2).err
    home.farm("models", "check-file", code=2).complains("there is no .*models.toml; the farm uses the models that come")
    (home.folder / "own.toml").write_text('[models.a]\nkind = "simulated"\nstep = 4\n')
    home.farm("models", "check-file", "own.toml", code=2).complains(r"own.toml: \[models.a\] step: unknown field")
    assert not (home.path / "models.toml").exists()


def test_files_say_themselves_what_they_are(home: Home) -> None:
    written(home.folder / "Ink Style.safetensors", LORA, metadata={"modelspec.trigger_phrase": "inkwash"})
    written(home.folder / "Dream_8.safetensors", SDXL)
    file = home.path / "models.toml"
    added = home.farm("models", "add", "Ink Style.safetensors").out
    told = "made for SDXL; rank 8; trigger words: inkwash"
    assert added == f"added LoRA ink-style to {file}: {home.folder}/Ink Style.safetensors\n  {told}\n"
    assert f"\n# {told}\n[loras.ink-style]\n" in file.read_text()
    model = home.farm("models", "add", "Dream_8.safetensors", "--set", "sampler=euler", "--json").json
    assert (model["alias"], model["width"], model["sampler"], model["facts"]) == ("dream_8", 1024, "euler", ["SDXL"])
    assert re.search(r"models.dream_8 +StableDiffusionXLPipeline, 1024×1024", home.farm("models", "check-file").out)

    written(home.folder / "badhands.safetensors", {"emb_params": (6, 768)})
    word = home.farm("models", "add", "badhands.safetensors").out
    assert word.endswith(
        "added embedding badhands to " + f"{file}: {home.folder}/badhands.safetensors\n  6 vectors of 768\n"
    )

    (home.folder / "styles").mkdir()
    for name in ("a", "b"):
        written(home.folder / "styles" / f"{name}.safetensors", LORA)
    folder = home.farm("models", "add", "styles").out
    assert folder.startswith(f"added the folder of LoRAs {home.folder}/styles to {file}: 2 LoRAs\n")
    assert home.farm("models", "show", "dream_8", "--json").json["loras"] == ["ink-style", "a", "b"]
    assert "takes no ALIAS" in home.farm("models", "add", "x", "styles", code=2).err
    home.farm("models", "add", "styles", code=2).complains("has a folder of LoRAs already")


def test_paths_of_keys_start_where_the_command_is_typed(home: Home) -> None:
    no_vae = {name: shape for name, shape in SDXL.items() if "first_stage" not in name}
    written(home.folder / "m.safetensors", no_vae)
    written(home.folder / "vae.safetensors", {"decoder.conv_in.weight": (1,), "x": (1,), "y": (1,)})
    home.farm("models", "add", "m.safetensors", code=2).complains("it has no VAE; name one")
    home.farm("models", "add", "m.safetensors", "--set", "vae=vae.safetensors")
    assert f'vae = "{home.folder}/vae.safetensors"' in (home.path / "models.toml").read_text()
    assert (
        "--set alias: write it before SOURCE" in home.farm("models", "add", "x", "a/b", "--set", "alias=y", code=2).err
    )


def test_a_folder_of_one_lora_is_an_entry_where_it_is_named(home: Home) -> None:
    (home.folder / "ink-lora").mkdir()
    written(home.folder / "ink-lora" / "some.safetensors", LORA)
    added = home.farm("models", "add", "ink", "ink-lora").out
    assert added.startswith(f"added LoRA ink to {home.path / 'models.toml'}: {home.folder}/ink-lora\n")
    home.farm("models", "show", "ink", code=2).complains("ink is a LoRA, no model; registered models: shapes")
    again = home.farm("models", "add", "shapes", "someone/other").out
    assert "it takes the place of the shapes that comes with the farm" in again


def test_models_are_listed_by_either_command(home: Home) -> None:
    assert home.farm("models", "list", "--json").json == home.farm("models", "--json").json
    assert "--json: write it behind show" in home.farm("models", "--json", "show", "shapes", code=2).err
    assert "--json: write it behind release" in home.farm("workers", "--json", "release", "x", code=2).err
