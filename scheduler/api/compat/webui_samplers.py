"""Lists of samplers and schedules for the web UI's clients; `storage.spec.foreign_samplers` reads what they choose."""

from collections.abc import Iterator
from typing import Any

from storage.spec.foreign_samplers import WEBUI_SCHEDULES
from storage.spec.sampler_names import PLAIN


def samplers() -> Iterator[dict[str, Any]]:
    """Yield the samplers, without their schedules, in the web UI's form."""
    for key, name in PLAIN.items():
        yield {"name": name, "aliases": [key], "options": {}}


def schedules() -> Iterator[dict[str, Any]]:
    """Yield the schedules that the farm has, in the web UI's form."""
    for label in ("Automatic", *(label for label, ours in WEBUI_SCHEDULES.items() if ours)):
        key = label.lower().replace(" ", "_")
        yield {"name": key, "label": label, "aliases": None, "default_rho": -1.0, "need_inner_model": False}
