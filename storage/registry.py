"""The model registry (`models.toml`): which models exist, under which alias, with which defaults.

Only registered models run; a caller names an alias and nothing else reaches a model loader.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, TypeAdapter, ValidationError

from storage.errors import BadSettings, BadSpecification, NotFound
from storage.settings import Settings
from storage.spec import Guidance, NegativePrompt, Request, Sampler, Size, Spec, Steps, check_pixels, explain


class _Model(BaseModel):
    """Common to all kinds: what a request that leaves fields out gets, and how many fit in one batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    batch_limit: int = Field(8, ge=1, le=256)
    width: Size = 512
    height: Size = 512
    num_inference_steps: Steps = 30
    guidance_scale: Guidance = 7.5
    negative_prompt: NegativePrompt = ""
    sampler: Sampler | None = None


class DiffusersModel(_Model):
    """A pipeline that `AutoPipelineForText2Image` opens."""

    kind: Literal["diffusers"]
    #: A hub id, a folder in Diffusers layout, or `shipped:<name>`, which comes with the farm.
    source: str
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


class SimulatedModel(_Model):
    """Sleeps `steps × (seconds_per_step + batch × seconds_per_step_and_picture)`; no torch."""

    kind: Literal["simulated"]
    seconds_per_step: NonNegativeFloat = 0.025
    seconds_per_step_and_picture: NonNegativeFloat = 0.019


Model = DiffusersModel | SimulatedModel
_MODEL: TypeAdapter[Model] = TypeAdapter(Annotated[Model, Field(discriminator="kind")])


@dataclass(frozen=True)
class Registry:
    """The models by alias, in the file's order, and which of them is used when none is named."""

    models: Mapping[str, Model]
    default: str

    def __getitem__(self, alias: str) -> Model:
        """Raises NotFound with the known aliases."""
        if alias not in self.models:
            raise NotFound(f"no model is registered as {alias!r}; known are {', '.join(self.models)}")
        return self.models[alias]

    def resolve(self, request: Request, *, seed: int) -> Spec:
        """The complete specification of a request; `seed` is used where the request has none.

        Raises NotFound for an unknown model, BadSpecification for a size that is too large.
        """
        model = self[request.model or self.default]
        asked = request.model_dump(exclude_none=True)
        defaults = model.model_dump(
            include={
                "width",
                "height",
                "num_inference_steps",
                "guidance_scale",
                "negative_prompt",
                "sampler",
            }
        )
        try:
            spec = Spec.model_validate(defaults | {"seed": seed} | asked | {"model": model.alias})
        except ValidationError as error:
            raise BadSpecification(explain(error)) from None
        check_pixels(spec.width, spec.height)
        return spec

    def aliases(self, wanted: str) -> list[str]:
        """The aliases of a comma-separated list; all of them for an empty one. Raises NotFound."""
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        return list(dict.fromkeys(self[name].alias for name in names)) or list(self.models)


def read_registry(settings: Settings) -> Registry:
    """The registry that `settings` name. Raises BadSettings with the file and the entry that is wrong."""
    path = settings.local_models_file
    if path.exists() or settings.models_file:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"model registry {path}: {error}") from None
        return parse_registry(text, where=str(path))
    return parse_registry(files("storage").joinpath("models.toml").read_text(encoding="utf-8"), where="built-in")


def parse_registry(text: str, *, where: str) -> Registry:
    """Raises BadSettings with `where` and the entry that is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"model registry {where}: {error}") from None
    unknown = content.keys() - {"default", "models"}
    entries = content.get("models")
    if unknown or not isinstance(entries, dict) or not entries:
        raise BadSettings(
            f"model registry {where}: expected `default` and tables [models.ALIAS]"
            + (f", found {', '.join(sorted(unknown))}" if unknown else "")
        )
    models = {alias: _read_model(alias, entry, where) for alias, entry in entries.items()}
    default = content.get("default", next(iter(models)))
    if not isinstance(default, str) or default not in models:
        raise BadSettings(f"model registry {where}: default {default!r} is not one of {', '.join(models)}")
    return Registry(models=models, default=default)


def _read_model(alias: str, entry: Any, where: str) -> Model:
    place = f"model registry {where}: [models.{alias}]"
    if not isinstance(entry, dict):
        raise BadSettings(f"{place}: expected a table")
    try:
        model = _MODEL.validate_python({**entry, "alias": alias})
        check_pixels(model.width, model.height)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise BadSettings(f"{place} {field}: {problem['msg'].removeprefix('Value error, ')}") from None
    except BadSpecification as error:
        raise BadSettings(f"{place} {error}") from None
    return model
