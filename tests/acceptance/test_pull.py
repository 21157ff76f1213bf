"""`farm models pull`: weights fetched from a hub, here a stand-in that serves folders with random weights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from diffusers import DiffusionPipeline

from tests.acceptance.command import Home
from tests.acceptance.hub import COMMIT, TOKEN, Hub, hub
from tests.forks import Starter, forking
from tests.pipelines import random_weights
from tests.servers import eventually

UNET = "unet/diffusion_pytorch_model.safetensors"
MODELS = """
[models.sd]
kind = "diffusers"
source = "someone/sd"
pipeline = "StableDiffusionPipeline"
controlnets = ["someone/net"]
width = 64
height = 64
num_inference_steps = 2

[models.pinned]
kind = "diffusers"
source = "someone/sd"
revision = "0123456789abcdef0123456789abcdef01234567"
width = 64
height = 64
num_inference_steps = 2

[models.kandinsky]
kind = "diffusers"
source = "someone/decoder"
width = 64
height = 64
num_inference_steps = 2

[models.pickled]
kind = "diffusers"
source = "someone/pickled"

[models.lost]
kind = "diffusers"
source = "someone/lost"

[models.old]
kind = "diffusers"
source = "someone/sd"
revision = "v0"

[loras.ink]
source = "someone/ink"
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the hub has."""
    root = tmp_path_factory.mktemp("hub")
    own = root / "someone"
    random_weights.stable_diffusion(own / "sd")
    (own / "sd" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle beside the safetensors")
    random_weights.controlnet(own / "net", own / "sd")
    random_weights.lora(own / "ink", own / "sd")
    both = DiffusionPipeline.from_pretrained(random_weights.kandinsky22(root / "both"))
    both.decoder_pipe.save_pretrained(own / "decoder")
    both.prior_pipe.save_pretrained(own / "prior")
    (own / "decoder" / "README.md").write_text("---\nprior:\n- someone/prior\n---\nA decoder.\n")
    pickled = random_weights.stable_diffusion(own / "pickled") / "unet"
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    return root


@pytest.fixture(scope="module")
def hub_of_all(repositories: Path) -> Iterator[Hub]:
    with hub(repositories) as found:
        yield found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what was fetched is kept; as the hub's address, the same for all tests: libraries read both on import."""
    return tmp_path_factory.mktemp("cache") / "hf"


@pytest.fixture(scope="module")
def hub_starter(hub_of_all: Hub, cache: Path, starter: Starter) -> Iterator[Starter]:
    """Forks `farm models pull` from what has imported its libraries with these addresses."""
    settings = _settings_of(hub_of_all, cache)
    # The path of a socket must be short.
    with TemporaryDirectory(prefix="farm-test-") as folder, forking(Path(folder), "pull", settings) as address:
        yield starter.beside(settings, address)


@pytest.fixture
def served(hub_of_all: Hub, cache: Path) -> Hub:
    """The hub as it was at first; nothing is fetched from it yet."""
    hub_of_all.forget()
    shutil.rmtree(cache, ignore_errors=True)
    return hub_of_all


@pytest.fixture
def home(tmp_path: Path, hub_starter: Starter, served: Hub, cache: Path) -> Iterator[Home]:
    home = Home(tmp_path, hub_starter, FARM_DEVICES="cpu:0", **_settings_of(served, cache))
    home.path.mkdir()
    (home.path / "models.toml").write_text(MODELS)
    yield home
    home.is_left_in_peace()


def _settings_of(served: Hub, cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": served.address, "HF_HOME": str(cache)}


def _missing(home: Home) -> dict[str, list[str]]:
    return {model["alias"]: model["missing"] for model in home.farm("models", "--json").json}


def test_models_are_fetched_with_progress_with_all_that_they_need_and_rendered_offline(home: Home, served: Hub) -> None:
    assert _missing(home)["sd"] == ["someone/sd", "someone/net"]

    pulled = home.farm("models", "pull", "sd")

    assert "100%" in pulled.err
    assert [line.partition(": ")[0] for line in pulled.out.splitlines()] == ["someone/sd", "someone/net"]
    assert _missing(home)["sd"] == []
    # What is no part of the pipeline, or can carry code, is not fetched; nothing twice.
    assert len(set(served.served())) == len(served.served())
    assert not [path for path in served.served() if path.endswith(".bin")]

    # A prior with its decoder.
    pulled = home.farm("models", "pull", "kandinsky")

    assert [line.partition(": ")[0] for line in pulled.out.splitlines()] == ["someone/prior", "someone/decoder"]
    assert _missing(home)["kandinsky"] == []

    # By one farm, which has to import PyTorch for itself: it finds other addresses than those that are forked with it.
    random_weights.picture(home.folder / "mask.png", seed=1)
    rows = [{"prompt": "a", "model": "sd", "control_images": ["mask.png"]}, {"prompt": "a", "model": "kandinsky"}]
    home.file("rows.jsonl", "\n".join(map(json.dumps, rows)))
    made = home.farm("render", "--prompts", "rows.jsonl", "--json", settings={"HF_HUB_OFFLINE": "1"}).json
    assert [job["state"] for job in made["jobs"]] == ["done"] * 2


def test_an_interrupted_fetch_goes_on_with_the_files_that_are_missing(
    home: Home, served: Hub, repositories: Path, cache: Path
) -> None:
    served.hangs = UNET
    with home.started("models", "pull", "pinned") as pull:
        eventually(lambda: {*_fetched(cache), UNET} == _wanted(repositories), "the others are here")
        ended = pull.interrupted()
    assert ended.code != 0
    assert "Traceback" not in ended.err
    assert _missing(home)["pinned"] == ["someone/sd"]
    served.hangs = None
    served.asked.clear()

    home.farm("models", "pull", "pinned")

    assert served.served() == [UNET]
    assert _missing(home)["pinned"] == []


def test_a_gated_lora_is_fetched_with_the_token_of_the_environment(home: Home, served: Hub) -> None:
    served.gated.add("someone/ink")
    home.farm("models", "pull", "ink", code=3).complains("someone/ink: is gated: .* set HF_TOKEN")
    home.farm("models", "pull", "ink", settings={"HF_TOKEN": TOKEN})
    assert [Path(path).suffix for path in served.served()] == [".safetensors"]


@pytest.mark.parametrize(
    ("alias", "code", "says"),
    [
        ("pickled", 3, "someone/pickled: .*safetensors"),
        ("lost", 3, "someone/lost: the hub has no such repository"),
        ("old", 3, "someone/sd: has no revision 'v0'"),
        ("nothing", 2, "no model named 'nothing'"),
    ],
)
def test_what_cannot_be_fetched_is_named(home: Home, served: Hub, alias: str, code: int, says: str) -> None:
    home.farm("models", "pull", alias, code=code).complains(says)
    assert not [path for path in served.served() if path.endswith((".bin", ".safetensors"))]


def _fetched(cache: Path) -> set[str]:
    """The files of the pipeline that are here, whole."""
    snapshot = cache / "hub" / "models--someone--sd" / "snapshots" / COMMIT
    return {str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.is_file()}


def _wanted(repositories: Path) -> set[str]:
    """The files that the pipeline is loaded from."""
    folder = repositories / "someone" / "sd"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    return {name for name in files if not name.endswith(".bin")}
