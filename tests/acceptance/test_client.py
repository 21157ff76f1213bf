"""`from diffusion_farm import Farm`: the client on a running API, also where nothing but the client is installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffusion_farm import ApiProblem, Farm
from tests.acceptance.api import Api
from tests.client_only import EXTRAS, PARTS_OF_A_FARM, without


@pytest.fixture(scope="module")
def address(api: Api) -> str:
    return api.address


def test_the_client_renders_and_brings_the_pictures(address: str, tmp_path: Path) -> None:
    with Farm(address) as farm:
        render = farm.submit(["a red star", "a green circle"], n=2, seed=7)
        assert (render.total, render.seeds) == (4, [7, 8, 9, 10])
        pictures = list(farm.images(render))
        assert farm.wait(render, timeout=30).state == "done"
        assert farm.cancel(render) == 0
        with pytest.raises(ApiProblem, match="width: must be a multiple of 8") as refused:
            farm.submit("a", width=65)
    assert refused.value.status == 422
    assert sorted((one.index, one.seed, one.prompt) for one in pictures) == [
        (0, 7, "a red star"),
        (1, 8, "a red star"),
        (2, 9, "a green circle"),
        (3, 10, "a green circle"),
    ]
    with Image.open(pictures[0].save(tmp_path)) as picture:
        assert picture.size == (64, 64)


def test_the_program_of_the_readme_does_what_it_says(address: str, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [program] = re.findall(r"```python\n(from diffusion_farm .*?)```", readme, re.DOTALL)
    command = [sys.executable, "-c", program.replace("http://127.0.0.1:8000", address)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4


ALONE = """
import sys
from diffusion_farm import Farm
with Farm(sys.argv[1]) as farm:
    render = farm.submit("a red star", seed=7)
    [picture] = farm.images(render)
    assert farm.wait(render, progress=True).state == "done"
    print(picture.seed, picture.prompt, picture.data[1:4].decode())
"""


def test_the_client_renders_where_only_httpx_is_installed(address: str) -> None:
    command = [sys.executable, "-c", without((*EXTRAS, *PARTS_OF_A_FARM), ALONE), address]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], check=True, timeout=60, capture_output=True, text=True
    )
    assert ended.stdout == "7 a red star PNG\n"
    assert ended.stderr.endswith(": 1 of 1\n")
