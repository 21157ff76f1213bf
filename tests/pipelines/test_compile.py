"""`compile` in the registry: the same pictures, and what one worker compiled the next one finds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.forks import Starter
from tests.pipelines import random_weights

#: What a worker process does: open the backend, load pipelines, render batches.
_WORKER = """
import json, sys
folder, home, by_slots = sys.argv[1:]
from tests.pipelines.compiling import compile_here
compile_here(vectors=True)
from pathlib import Path
import numpy as np
from storage.objects.folder import LocalObjects
from storage.spec.registry import parse_registry
from storage.spec.picture import Request
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend
entry = '[models.{0}]\\nkind = "diffusers"\\nsource = "{1}"\\nbatch_limit = 2\\ncompile = "{0}"\\n'
registry = parse_registry("".join(entry.format(mode, folder) for mode in ("none", "default")), where="here")
inputs = InputCache(LocalObjects(Path(home)))
backend = open_backend("diffusers", Device("cpu", 0), BackendResources(inputs=inputs, loras={}, home=Path(home)))
from torch._dynamo.utils import counters
def drawn(mode):
    model = backend.load(registry[mode])
    request = Request.parse({"prompt": "a red star", "model": mode, "width": 16, "height": 16, "steps": 2})
    specs = [registry.resolve(request, seed=seed) for seed in (1, 2, 3)]
    # Batches of two and of one: the second is filled up, or it would be compiled anew.
    pictures = [picture for some in (specs[:2], specs[2:]) for picture in model.render(some, lambda: None).pictures]
    return [np.asarray(picture).tolist() for picture in pictures], model, specs
def in_slots(model, specs):
    loop = model.slots()
    first, second, third = slots = [loop.admit(spec) for spec in specs]
    # Calls of four rows, then of four again, filled up.
    for some in ([first, second], [second, third], [first, third]):
        assert loop.tick(some) == {}
    return [[np.asarray(made.picture).tolist(), made.recipe["calls"]] for made in loop.develop(slots)]
eager, *_ = drawn("none")
compiled, model, specs = drawn("default")
found = {"eager": eager, "compiled": compiled}
found |= {name: counters["inductor"]["fxgraph_cache_" + name] for name in ("hit", "miss")}
# After what is counted: calls of other shapes are compiled anew.
found["slots"] = in_slots(model, specs) if by_slots == "yes" else []
print(json.dumps(found))
"""


def _worker(starter: Starter, folder: Path, home: Path, *, by_slots: bool = False) -> dict[str, Any]:
    said = starter.said(_WORKER, str(folder), str(home), "yes" if by_slots else "no", folder=home)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def test_compiled_pictures_are_the_same_and_compiled_once(starter: Starter, tmp_path: Path) -> None:
    folder = random_weights.smallest(tmp_path / "smallest")
    first, second = _worker(starter, folder, tmp_path), _worker(starter, folder, tmp_path, by_slots=True)

    for found in (first, second):
        eager, compiled = np.array(found["eager"]), np.array(found["compiled"])
        assert np.abs(compiled - eager).max() <= 1
        assert eager.std() > 1
    for number, (picture, calls) in enumerate(second["slots"]):
        assert np.abs(np.array(picture) - np.array(second["eager"][number])).max() <= 1
        assert sum(count for *_, count in calls) == 2
        assert {rows for rows, *_ in calls} == {4}
    assert len(second["slots"]) == 3
    assert first["miss"] > 0
    assert (second["miss"], second["hit"]) == (0, first["miss"])
