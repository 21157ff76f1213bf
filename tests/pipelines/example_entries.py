"""The entries of examples/models.toml, as families of pipelines are tried with them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[2] / "examples/models.toml"
#: Architectures → the entries whose options they are tried with.
OF_ARCHITECTURES: Mapping[str, str] = {
    "sd": "sd15",
    "sd21": "sd21",
    "sdxl": "sdxl",
    "sdxl-pag": "sdxl-pag",
    "sdxl-turbo": "sdxl-turbo",
    "lcm": "lcm-dreamshaper",
    "kandinsky22": "kandinsky22",
    "kandinsky3": "kandinsky3",
    "sd3": "sd35",
    "flux-dev": "flux-dev",
    "flux-schnell": "flux-schnell",
    "flux2-klein-distilled": "flux2-klein",
    "qwen-image": "qwen-image",
    "z-image": "z-image-turbo",
    "chroma": "chroma",
    "sana": "sana",
    "pixart-sigma": "pixart-sigma",
    "lumina2": "lumina2",
    "ernie-image": "ernie-image",
}
#: What is another for a small model, or of one picture: tests give their own.
_OWN = {"kind", "source", "revision", "batch_limit", "width", "height", "num_inference_steps", "guidance_scale"}
_OWN |= {"sampler", "controlnets", "prior_num_inference_steps", "prior_guidance_scale"}


def entries() -> Mapping[str, Mapping[str, Any]]:
    """Return all models of the file."""
    return dict(tomllib.loads(_FILE.read_text(encoding="utf-8"))["models"])


def options(architecture: str) -> Mapping[str, str]:
    """Return how the entry of an architecture says that a model is opened and run; nothing where there is none."""
    entry = entries()[OF_ARCHITECTURES[architecture]] if architecture in OF_ARCHITECTURES else {}
    return {name: value for name, value in entry.items() if name not in _OWN}


def named_as_variant(folder: Path, variant: str) -> None:
    """Give the weights of a folder the names that those of a variant have."""
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}{file.suffix}"))
