"""A folder of sixty LoRAs, as people have it: added by one command, listed, found as it grows, and used."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import safetensors.torch
import torch

from storage.spec.model_files import SHIPPED
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually

FILES = 60


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Iterator[Home]:
    home = Home(tmp_path, starter, FARM_DEVICES="cpu:0", HF_HUB_OFFLINE="1")
    yield home
    home.is_left_in_peace()


def write(file: Path, seed: int) -> None:
    """A LoRA of one layer of the shipped model, as kohya's trainer writes it, with a word that it was trained with."""
    weights = safetensors.torch.load_file(SHIPPED / "shapes/unet/diffusion_pytorch_model.safetensors")
    name = next(name for name in weights if name.endswith("attn2.to_q.weight"))
    outputs, inputs = weights[name].shape
    key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{key}.lora_down.weight": torch.randn(2, inputs, generator=generator),
        f"{key}.lora_up.weight": torch.randn(outputs, 2, generator=generator),
    }
    safetensors.torch.save_file(tensors, file, {"modelspec.trigger_phrase": f"word{seed}"})


def test_a_folder_of_sixty_is_added_listed_and_used(home: Home) -> None:
    folder = home.folder / "styles"
    folder.mkdir()
    for number in range(FILES):
        write(folder / f"Style {number:02}.safetensors", number)
    aliases = [f"style-{number:02}" for number in range(FILES)]

    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        added = home.farm("models", "add", "styles").out.splitlines()
        assert added[0].endswith(": 60 LoRAs")
        assert len(added) == 2 + FILES
        listed = home.farm("loras", "--json").json
        assert [one["alias"] for one in listed] == aliases
        assert listed[7]["facts"] == ["rank 2", "trigger words: word7"]
        shown = home.farm("loras", "--model", "shapes")
        assert len(shown.out.splitlines()) == 1 + FILES
        assert shown.err.startswith("60 LoRAs; what is put into ")
        assert home.farm("loras", "--model", "simulated").out.count("\n") == 1

        rows = [{"prompt": "a red star", "seed": 1, "steps": 2, "loras": {alias: 1.0}} for alias in aliases]
        home.file("rows.jsonl", "\n".join(map(json.dumps, rows)))
        result = home.farm("render", "--prompts", "rows.jsonl", "--json").json
        assert [job["state"] for job in result["jobs"]] == ["done"] * FILES
        assert len({job["pixels_sha256"] for job in result["jobs"]}) == FILES
        recipe = home.farm("recipe", result["jobs"][7]["id"], "--json").json
        assert list(recipe["made_with"]["loras"]) == ["style-07"]
        again = home.farm("rerender", result["jobs"][7]["id"])
        assert "is identical to" in again.out

        # What is put there later is found by the farm that runs.
        write(folder / "Late.safetensors", 99)
        assert home.farm("loras", "--json").json[0]["alias"] == "late"
        late = home.farm("render", "a red star", "--lora", "late=1", "--steps", "2", "--seed", "1", "--no-wait")
        eventually(
            lambda: home.rows(f"SELECT 1 FROM jobs WHERE render_id = '{late.out.strip()}' AND state = 'done'"),
            "the one that came later is used",
        )
        _added_beside_an_api(home, folder)
        up.interrupted()


def _added_beside_an_api(home: Home, folder: Path) -> None:
    """Neither the API nor the worker is started again: both use the LoRA that is put there."""
    workers = home.process("worker.process.parent")
    assert workers is not None
    with home.started("api", "--port", "0") as api:
        api.says("documentation at /docs")
        address = re.search(r"http://[\d.]+:\d+", api.err)
        assert address is not None
        with httpx.Client(base_url=address[0], timeout=90) as client:

            def listed() -> list[str]:
                return [one["name"] for one in client.get("/sdapi/v1/loras").json()]

            def rendered(**fields: object) -> str:
                asked = {"prompt": "a red star", "steps": 2, "seed": 1, "loras": {"over-http": 1.0}, **fields}
                return str(client.post("/v1/renders", json=asked).json().get("id"))

            assert "late" in listed()
            assert "over-http" not in listed()
            write(folder / "Over HTTP.safetensors", 100)
            eventually(lambda: "over-http" in listed(), "the API knows of it")
            home.wait_until_done(rendered())
            plain = rendered(loras={})
            home.wait_until_done(plain)
        api.interrupted()
    assert len(home.rows("SELECT DISTINCT pixels_sha256 FROM jobs WHERE seed = 1")) == FILES + 3
    assert workers.is_running()


def test_what_is_wrong_with_one_is_said_in_the_list(home: Home) -> None:
    home.path.mkdir()
    (home.folder / "no.safetensors").write_bytes(b"nothing")
    (home.path / "models.toml").write_text(
        'builtin = true\n[loras.cut]\nsource = "../no.safetensors"\n[loras.gone]\nsource = "./gone.safetensors"\n'
        '[loras.far]\nsource = "someone/far"\nmodels = ["shapes"]\n'
    )
    told = {one["alias"]: one for one in home.farm("loras", "--json").json}
    assert told["cut"]["facts"][0].startswith("not a safetensors file: ")
    assert told["gone"]["facts"] == [f"there is no {home.path}/gone.safetensors"]
    assert (told["far"]["facts"], told["far"]["models"]) == ([], ["shapes"])
    home.farm("loras", "--model", "none", code=2).complains("no model named 'none'; registered models: ")
