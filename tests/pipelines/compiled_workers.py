"""What workers with compiled models draw: `python -m tests.pipelines.compiled_workers MODEL LORAS HOME`.

Each is a process of its own and finds what those before it compiled on the disk alone; all are forked from one that has
imported torch's compiler, drawn the pictures without it, and compiled nothing. Leaves what each found in HOME.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.objects.folder import LocalObjects
from storage.spec.picture import Request, Spec
from storage.spec.registry import parse_registry
from tests.pipelines.compiling import compile_here
from worker.devices import Device
from worker.rendering.backend import BackendResources
from worker.rendering.input_cache import InputCache
from worker.rendering.open_backend import open_backend

FOUND = "found.json"
_ENTRY = '[models.{0}]\nkind = "diffusers"\nsource = "{1}"\nbatch_limit = 2\ncompile = "{0}"\n'
_LORA = '[loras.{0}]\nsource = "{1}/{0}.safetensors"\n'
#: One LoRA after another, and several at once.
_SETS = (("one", "two"), ("three", "one"), ("two", "two"))


class Workers:
    """A registry of one model, compiled and not, as workers of one home have it."""

    def __init__(self, model: str, loras: str, home: str) -> None:
        text = "".join(_ENTRY.format(mode, model) for mode in ("none", "default"))
        self._plain = parse_registry(text, where="here")
        text += "".join(_LORA.format(name, loras) for name in ("one", "two", "three"))
        self._with_loras = parse_registry(text, where="here")
        self._home = Path(home)

    def drawn(self, mode: str) -> tuple[list[Any], Any, list[Spec]]:
        """Return three pictures by calls, their model, and what was asked for."""
        model = self._backend(self._plain).load(self._plain[mode])
        request = Request.parse({"prompt": "a red star", "model": mode, "width": 16, "height": 16, "steps": 2})
        specs = [self._plain.resolve(request, seed=seed) for seed in (1, 2, 3)]
        # Batches of two and of one: the second is filled up, or it would be compiled anew.
        pictures = [picture for some in (specs[:2], specs[2:]) for picture in model.render(some, lambda: None).pictures]
        return [np.asarray(picture).tolist() for picture in pictures], model, specs

    def drawn_with_loras(self, mode: str) -> Iterator[list[Any]]:
        """Draw with each set of LoRAs in slots."""
        registry = self._with_loras
        model: Any = self._backend(registry).load(registry[mode])
        if mode != "none":
            # The UNet has the LoRAs; what compiling the VAE comes to is what others of these are for.
            del model.pipeline.vae.decode
        loop = model.slots()
        asked = {"prompt": "a star", "model": mode, "width": 16, "height": 16, "steps": 2}
        for names in _SETS:
            loras = [{name: 0.5 + len(name) / 10} for name in names]
            slots = [loop.admit(registry.resolve(Request.parse(asked | {"loras": some}), seed=1)) for some in loras]
            for _ in range(2):
                assert loop.tick(slots) == {}
            yield [np.asarray(made.picture).tolist() for made in loop.develop(slots)]

    def by_calls(self) -> dict[str, Any]:
        from torch._dynamo.utils import counters

        pictures, *_ = self.drawn("default")
        return {"pictures": pictures, **_looked_up(counters)}

    def by_calls_and_slots(self) -> dict[str, Any]:
        from torch._dynamo.utils import counters

        pictures, model, specs = self.drawn("default")
        found = {"pictures": pictures, **_looked_up(counters)}
        # After what is counted: calls of other shapes are compiled anew.
        return found | {"slots": _in_slots(model, specs)}

    def with_loras(self) -> dict[str, Any]:
        from torch._dynamo.utils import counters

        drawing = self.drawn_with_loras("default")
        first = next(drawing)
        before = counters["stats"]["unique_graphs"]
        pictures = [first, *drawing]
        return {"pictures": pictures, "graphs": [before, counters["stats"]["unique_graphs"]]}

    def _backend(self, registry: Any) -> Any:
        inputs = InputCache(LocalObjects(self._home))
        resources = BackendResources(inputs=inputs, loras=registry.loras, home=self._home)
        return open_backend("diffusers", Device("cpu", 0), resources)


def _in_slots(model: Any, specs: Sequence[Spec]) -> list[Any]:
    loop = model.slots()
    first, second, third = slots = [loop.admit(spec) for spec in specs]
    # Calls of four rows, then of four again, filled up.
    for some in ([first, second], [second, third], [first, third]):
        assert loop.tick(some) == {}
    return [[np.asarray(made.picture).tolist(), made.recipe["calls"]] for made in loop.develop(slots)]


def _looked_up(counters: Any) -> dict[str, int]:
    return {name: counters["inductor"]["fxgraph_cache_" + name] for name in ("hit", "miss")}


def _forked(work: Callable[[], dict[str, Any]], file: Path) -> dict[str, Any]:
    """Do this in a process of its own; what it returns."""
    if not (child := os.fork()):
        try:
            file.write_text(json.dumps(work()))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - this process ends here, whatever was raised
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, file.name
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    workers, home = Workers(*sys.argv[1:]), Path(sys.argv[3])
    # What opens a backend says where compiled kernels are kept, before anything looks for that place.
    found: dict[str, Any] = {"eager": workers.drawn("none")[0]}
    found["eager with LoRAs"] = list(workers.drawn_with_loras("none"))
    compile_here()
    for name, work in (
        ("first", workers.by_calls),
        ("second", workers.by_calls_and_slots),
        ("with LoRAs", workers.with_loras),
    ):
        found[name] = _forked(work, home / f"{name}.json")
    (home / FOUND).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
