"""A farm of one simulated device with `farm api` in front of it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import eventually

MODELS = """
[models.quick]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
seconds_per_step = 0.005
seconds_per_step_and_picture = 0.0
fault = { kind = "bad picture", prompt = "black hole" }

[models.slow]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 50
batch_limit = 4
seconds_per_step = 0.1
seconds_per_step_and_picture = 0.0
"""


class Api:
    """Where it answers, and keys for it."""

    def __init__(self, home: Home, address: str) -> None:
        self.home = home
        self.address = address

    def key(self, owner: str, *options: str) -> str:
        """A new key; from the first one on nobody is let in without."""
        return self.home.farm("keys", "create", "--name", owner, "--owner", owner, *options).out.strip()


@contextmanager
def running_api(folder: Path, starter: Starter, *, models: str = MODELS, **settings: str) -> Iterator[Api]:
    """Without any key, and so open to this machine."""
    home = Home(folder, starter, FARM_WEBHOOK_PRIVATE="true", **settings)
    home.path.mkdir()
    (home.path / "models.toml").write_text(models)
    with home.started("up") as up:
        up.says("Ctrl-C stops it")
        with home.started("api", "--port", "0") as api:
            api.says("documentation at /docs")
            match = re.search(r"http://[\d.]+:\d+", api.err)
            assert match is not None
            eventually(lambda: httpx.get(f"{match[0]}/readyz", timeout=60).is_success, "a worker serves")
            yield Api(home, match[0])
            assert api.interrupted().code in (0, 130)
        up.interrupted()
    home.is_left_in_peace()


def clients(api: Api, owner: str, *options: str) -> Iterator[httpx.Client]:
    """Somebody with a key, to be delegated to by a fixture or looped over once."""
    headers = {"Authorization": f"Bearer {api.key(owner, *options)}"}
    with httpx.Client(base_url=api.address, headers=headers, timeout=90) as client:
        yield client


def finished(client: httpx.Client, render_id: str) -> Any:
    def look() -> Any:
        found = client.get(f"/v1/renders/{render_id}").json()
        return found if found["done"] + found["failed"] + found["cancelled"] == found["total"] else None

    return eventually(look, f"render {render_id} is finished")
