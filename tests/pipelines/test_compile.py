"""`compile` in the registry: the same pictures, and what one worker compiled the next one finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.pipelines import random_weights

#: What a worker process does: the cache's place is set before torch is imported, the pipeline loaded, a batch rendered.
_WORKER = """
import json, os, sys, threading
folder, home, mode = sys.argv[1:]
os.environ["TORCHINDUCTOR_CACHE_DIR"] = home + "/inductor"
from pathlib import Path
import numpy as np
from torch._dynamo.utils import counters
from storage.objects import LocalObjects
from storage.registry import parse_registry
from storage.spec import Request
from worker.devices import Device
from worker.inputs import Inputs
from worker.renderers import Supplies, load
entry = f'[models.m]\\nkind = "diffusers"\\nsource = "{folder}"\\nbatch_limit = 2\\ncompile = "{mode}"'
registry = parse_registry(entry, where="here")
request = Request.parse({"prompt": "a red star", "width": 16, "height": 16, "steps": 2})
inputs = Inputs(LocalObjects(Path(home)), stopping=threading.Event())
renderer = load(registry["m"], Device("cpu", 0), Supplies(inputs=inputs, loras={}, home=Path(home)))
specs = [registry.resolve(request, seed=seed) for seed in (1, 2, 3)]
# Batches of two and of one: the second is filled up, or it would be compiled anew.
pictures = [picture for some in (specs[:2], specs[2:]) for picture in renderer.render(some, lambda: None).pictures]
found = {name: counters["inductor"][name] for name in ("fxgraph_cache_hit", "fxgraph_cache_miss")}
print(json.dumps(found | {"pictures": [np.asarray(picture).tolist() for picture in pictures]}))
"""


def _worker(folder: Path, home: Path, mode: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(folder), str(home), mode], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_compiled_pictures_are_the_same_and_compiled_once(tmp_path: Path) -> None:
    folder = random_weights.smallest(tmp_path / "smallest")
    eager = _worker(folder, tmp_path, "none")
    first = _worker(folder, tmp_path, "default")
    second = _worker(folder, tmp_path, "default")

    for compiled in (first, second):
        assert np.abs(np.array(compiled["pictures"]) - np.array(eager["pictures"])).max() <= 1
    assert np.array(eager["pictures"]).std() > 1
    assert eager["fxgraph_cache_miss"] == 0
    assert first["fxgraph_cache_miss"] > 0
    assert (second["fxgraph_cache_miss"], second["fxgraph_cache_hit"]) == (0, first["fxgraph_cache_miss"])
