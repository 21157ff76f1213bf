"""Homes of farms: one with a farm that runs all the while, fresh ones for those that must start their own; browsers."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from tests.acceptance.api import Api, clients, running_api
from tests.acceptance.browser import Visit, chromium, visiting
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually

#: Those that come with the farm, a slow one to catch in the middle, and one whose weights a test has yet to bring.
MODELS = """
default = "shapes"

[models.shapes]
kind = "diffusers"
source = "shipped:shapes"
pipeline = "StableDiffusionPipeline"
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 5.0
sampler = "ddim"

[models.shapes-silhouette]
kind = "diffusers"
source = "shipped:shapes"
pipeline = "StableDiffusionPipeline"
controlnets = ["shipped:shapes-silhouette"]
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 5.0
sampler = "ddim"

[models.simulated]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
seconds_per_step = 0.01
seconds_per_step_and_picture = 0.0
fault = {{ kind = "bad picture", prompt = "black hole" }}

[models.slow]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
batch_limit = 2
seconds_per_step = 0.1
seconds_per_step_and_picture = 0.0

[models.late]
kind = "diffusers"
source = "{late}"
width = 64
height = 64
num_inference_steps = 2
"""


@pytest.fixture
def home(tmp_path: Path, starter: Starter) -> Iterator[Home]:
    """A FARM_HOME that does not exist yet; fails the test if it leaves a process behind."""
    home = Home(tmp_path, starter)
    yield home
    home.is_left_in_peace()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Home]:
    """A home where `farm up` runs for the whole session, with a worker on the CPU and a simulated one."""
    folder = tmp_path_factory.mktemp("served")
    home = Home(folder, starter, FARM_DEVICES="cpu:0,simulated:0", HF_HUB_OFFLINE="1")
    home.path.mkdir()
    (home.path / "models.toml").write_text(MODELS.format(late=folder / "late"))
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        eventually(lambda: home.rows("SELECT 1 FROM workers"), "a worker has announced itself")
        yield home
        up.interrupted()
    home.is_left_in_peace()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("api"), starter) as api:
        yield api


@pytest.fixture(scope="module")
def address(api: Api) -> str:
    return api.address


@pytest.fixture(scope="module")
def ann(api: Api) -> Iterator[httpx.Client]:
    """Somebody with a key, on an API that is closed from then on."""
    yield from clients(api, "ann")


@pytest.fixture(scope="module")
def ben(api: Api) -> Iterator[httpx.Client]:
    yield from clients(api, "ben")


# -- the page in a browser ---------------------------------------------------------------------------------------


# Of a file and no longer: while one runs, its thread counts as one that runs an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where they are kept."""
    said = request.config.getoption("--screenshots")
    folder = Path(said) if said else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def keyless(
    browser: Browser,  # noqa: ARG001 - without one, no farm is started
    tmp_path_factory: pytest.TempPathFactory,
    starter: Starter,
) -> Iterator[Api]:
    """An API without any key, and so with a page that is open to this machine."""
    with running_api(tmp_path_factory.mktemp("keyless"), starter) as api:
        yield api


@pytest.fixture
def visit(browser: Browser, keyless: Api, screenshots: Path) -> Iterator[Visit]:
    """Somebody's browser at that page."""
    with visiting(browser, keyless.address, screenshots) as visit:
        yield visit
