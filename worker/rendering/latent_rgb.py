"""Linear maps from latents to red, green and blue: which one is a model's, by its own file or by its VAE."""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

#: A model's own map, in its folder beside `model_index.json`.
FILE_NAME = "latent_rgb.json"


class LatentRgb(BaseModel):
    """What latents, as a sampler has them, are multiplied by for a pixel of each of their cells, −1…1."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: For each channel: its share of red, green and blue.
    factors: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...] = Field(min_length=1)
    bias: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.0, 0.0, 0.0)

    @property
    def channels(self) -> int:
        return len(self.factors)


class _Space(LatentRgb):
    """A space of latents that many models draw in (`latent_rgb.toml`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    #: Classes of its VAE, and what their configurations say.
    vae: tuple[str, ...]
    config: Mapping[str, Any]
    #: The first of `latents_mean`; None: there are none.
    first_mean: float | None = None

    def is_of(self, vae: Any) -> bool:
        if type(vae).__name__ not in self.vae:
            return False
        means = vae.config.get("latents_mean")
        if (None if means is None else means[0]) != self.first_mean:
            return False
        return all(_plain(vae.config.get(name)) == value for name, value in self.config.items())


def own_map(folder: Path | None) -> LatentRgb | None:
    """Return the map that a model's folder brings; None if there is none. Raises ValueError if it cannot be read."""
    if folder is None or not (folder / FILE_NAME).is_file():
        return None
    try:
        return LatentRgb.model_validate_json((folder / FILE_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"its {FILE_NAME} cannot be read: {said}") from None


def known_map(vae: Any) -> LatentRgb | None:
    """Return the map for the latents of a VAE; None of one that is none of those known."""
    return next((space for space in _spaces().values() if space.is_of(vae)), None)


def written(made: LatentRgb, how: str) -> str:
    """Return a model's own map as a file holds it; `how` says where the numbers are from."""
    rows = ",\n  ".join(json.dumps(row) for row in made.factors)
    return f'{{\n "how": {json.dumps(how)},\n "bias": {json.dumps(made.bias)},\n "factors": [\n  {rows}\n ]\n}}\n'


@cache
def _spaces() -> Mapping[str, _Space]:
    text = files("worker.rendering").joinpath("latent_rgb.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, _Space]).validate_python(tomllib.loads(text))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
