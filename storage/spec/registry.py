"""The model registry (`models.toml`): which models exist, under which alias, with which defaults.

Only registered models run; a caller names an alias and nothing else reaches a model loader.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from storage.errors import BadSettings, BadSpecification, NotFound
from storage.settings import Settings
from storage.spec.aliases import aliases_of, known_as, wrong_alias
from storage.spec.capabilities import check_controls, check_loras, size_multiple
from storage.spec.controls import PER_CONTROLNET
from storage.spec.explanations import explain
from storage.spec.model_checks import ModelChecks, checks_file
from storage.spec.model_files import at_home, is_there, resolved_source
from storage.spec.models import SINGLE_FILE, DiffusersModel, Embedding, Lora, Model, SimulatedModel
from storage.spec.picture import Request, Spec, check_pixels
from storage.spec.picture_size import with_sides
from storage.spec.registry_text import MARK, read_text

M = TypeVar("M")
L = TypeVar("L", bound=Lora)
_MODEL: TypeAdapter[Model] = TypeAdapter(Annotated[Model, Field(discriminator="kind")])


@dataclass(frozen=True)
class _Entries:
    models: Mapping[str, Model]
    default: str
    loras: Mapping[str, Lora]
    lora_folder: Path | None
    embeddings: Mapping[str, Embedding]


class Registry:
    """The models by alias, in the file's order, and the default one.

    Processes that run hold one registry, whose entries follow its file (`registry_watch`): ask it each time.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        default: str,
        loras: Mapping[str, Lora] | None = None,
        *,
        lora_folder: Path | None = None,
        embeddings: Mapping[str, Embedding] | None = None,
    ) -> None:
        #: What `farm models check` found; it reads its own file.
        self.checks: ModelChecks | None = None
        self._now = _Entries(models, default, loras or {}, lora_folder, embeddings or {})

    @property
    def models(self) -> Mapping[str, Model]:
        return self._now.models

    @property
    def default(self) -> str:
        return self._now.default

    @property
    def loras(self) -> Mapping[str, Lora]:
        return self._now.loras

    @property
    def embeddings(self) -> Mapping[str, Embedding]:
        return self._now.embeddings

    @property
    def lora_folder(self) -> Path | None:
        """The folder all of whose LoRAs are registered."""
        return self._now.lora_folder

    def follow(self, other: "Registry") -> None:
        """Have the entries of another registry from now on, all at once."""
        self._now = other._now

    def with_checks(self, checks: ModelChecks | None) -> "Registry":
        """Return a registry of the same entries that knows what these checks found."""
        found = Registry(self.models, self.default)
        found.follow(self)
        found.checks = checks
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registry) and self._now == other._now

    def __getitem__(self, alias: str) -> Model:
        """Return a model. Raises NotFound, which lists the registered ones."""
        models = self.models
        if alias not in models:
            other = {**dict.fromkeys(self.loras, "a LoRA"), **dict.fromkeys(self.embeddings, "an embedding")}
            what = f"{alias} is {other[alias]}, no model" if alias in other else f"no model named {alias!r}"
            raise NotFound(f"{what}; registered models: {', '.join(models)}")
        return models[alias]

    def resolve(self, request: Request, *, seed: int) -> Spec:
        """Complete a request; `seed` is used where the request has none.

        Raises NotFound for an unknown model, BadSpecification for a size that is too large or a control that the model
        does not support.
        """
        model = self[request.model or self.default]
        asked = request.asked()
        if "aspect" in asked:
            found = 1 if self.checks is None else self.checks.multiple(model)
            multiple = max(size_multiple(model), found)
            asked = with_sides(asked, native=(model.width, model.height), multiple=multiple)
        fields = {**model.defaults} | {"seed": seed} | asked | {"model": model.alias}
        if request.prompt_embeds is not None:
            fields = _without_words(fields, request)
        elif fields.get("prompt_weighting") == "webui":
            fields = _as_the_webui_reads(fields, self.loras)
        try:
            spec = Spec.model_validate(fields | _for_each_controlnet(fields, model))
        except ValidationError as error:
            raise BadSpecification(explain(error)) from None
        check_pixels(spec.width, spec.height)
        check_controls(spec, model)
        if self.checks is not None:
            self.checks.check_size(spec, model)
        if spec.prompt_weighting or spec.long_prompts:
            _check_words(spec, model, self.embeddings)
        check_loras(spec, self.loras, model)
        return spec

    def aliases(self, wanted: str) -> list[str]:
        """Return the aliases of a comma-separated list; all of them for an empty one. Raises NotFound."""
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        return list(dict.fromkeys(self[name].alias for name in names)) or list(self.models)


def _without_words(fields: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Drop the model's default words: embeddings replace the prompt and the negative prompt."""
    words = {"negative_prompt", "prompt_weighting", "clip_skip"} - request.model_fields_set
    kept = {name: value for name, value in fields.items() if name not in words}
    return {"prompt": "", "negative_prompt": "", **kept}


def _check_words(spec: Spec, model: Model, embeddings: Mapping[str, Embedding]) -> None:
    """Check what few prompts ask for. Raises BadSpecification."""
    from storage.spec.prompt_length import check_length
    from storage.spec.slots import check_composed

    check_composed(spec, model)
    check_length(spec, model, embeddings)


def _as_the_webui_reads(fields: Mapping[str, Any], known: Mapping[str, Lora]) -> dict[str, Any]:
    """Leave comments out, and take the web UI's LoRA tags out of the prompt. Raises BadSpecification."""
    from storage.spec.webui_prompts import take_loras, without_comments

    words = {name: without_comments(fields[name]) for name in ("prompt", "negative_prompt")}
    if "<" not in words["prompt"]:
        return {**fields, **words}
    try:
        prompt, scales = take_loras(words["prompt"])
    except ValueError as error:
        raise BadSpecification(f"prompt: {error}") from None
    named = dict(fields.get("loras") or {})
    for name, scale in scales.items():
        alias = known_as(name, known)
        if alias in named:
            raise BadSpecification(f"prompt: the LoRA {alias!r} is named twice; give it one weight")
        named[alias] = scale
    return {**fields, **words, "prompt": prompt} | ({"loras": named} if named else {})


def _for_each_controlnet(fields: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Repeat a number that is given once for every ControlNet of the model."""
    nets = len(model.controlnets) if isinstance(model, DiffusersModel) else 0
    return {name: fields[name] * nets for name in PER_CONTROLNET if nets > 1 and len(fields.get(name, ())) == 1}


def read_registry(settings: Settings) -> Registry:
    """Read the registry that `settings` name. Raises BadSettings with the file and the entry that is wrong."""
    return _read_models(settings).with_checks(ModelChecks(checks_file(settings)))


def _read_models(settings: Settings) -> Registry:
    path = settings.local_models_file
    if path.exists() or settings.models_file:
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise BadSettings(f"model registry {path}: there is no such file") from None
        return parse_registry(text, where=str(path), folder=path.absolute().parent)
    return parse_registry(_builtin(), where="built-in")


def comes_with_the_farm(alias: str) -> bool:
    """Tell whether a model of this name comes with the farm."""
    return alias in tomllib.loads(_builtin())["models"]


def _builtin() -> str:
    return files("storage.spec").joinpath("models.toml").read_text(encoding="utf-8")


def parse_registry(text: str, *, where: str, folder: Path | None = None) -> Registry:
    """Parse a registry, in whose `folder` relative sources start.

    Raises BadSettings with `where` and the entry that is wrong.
    """
    try:
        content = tomllib.loads(text.removeprefix(MARK))
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"model registry {where}: {error}") from None
    unknown = content.keys() - {"builtin", "default", "models", "loras", "embeddings"}
    entries = content.get("models", {})
    builtin = content.get("builtin", False)
    if unknown or not isinstance(entries, dict) or not (entries or builtin):
        raise BadSettings(
            f"model registry {where}: expected `default`, `builtin` and tables [models.ALIAS], [loras.ALIAS] and "
            "[embeddings.ALIAS]" + (f", found {', '.join(sorted(unknown))}" if unknown else "")
        )
    if not isinstance(builtin, bool):
        raise BadSettings(f"model registry {where}: builtin must be true or false (given: {builtin!r:.40})")
    models = {
        alias: _read(
            Model, _MODEL.validate_python, placed(entry, folder), alias, f"model registry {where}: [models.{alias}]"
        )
        for alias, entry in entries.items()
    }
    if builtin:
        # What the file has of the same name counts.
        shipped = parse_registry(_builtin(), where="built-in").models
        models |= {alias: model for alias, model in shipped.items() if alias not in models}
    default = content.get("default", next(iter(models)))
    if not isinstance(default, str) or default not in models:
        raise BadSettings(f"model registry {where}: default {default!r} is not one of {', '.join(models)}")
    entries = content.get("loras", {})
    lora_folder = _lora_folder(entries, where, folder)
    if lora_folder is not None:
        entries = {alias: entry for alias, entry in entries.items() if alias != "folder"}
    loras = _read_words("loras", Lora, _all_placed(entries, folder), models, where)
    embeddings = _read_words("embeddings", Embedding, _all_placed(content.get("embeddings", {}), folder), models, where)
    if lora_folder is not None:
        loras |= _loras_in(lora_folder, loras)
    return Registry(models, default, loras, lora_folder=lora_folder, embeddings=embeddings)


def placed(entry: Any, folder: Path | None) -> Any:
    """Return an entry whose relative sources, its parts' among them, start in the registry's folder."""
    if isinstance(entry, str) and folder is not None:
        return resolved_source(entry, folder)
    if not isinstance(entry, dict) or folder is None:
        return entry
    found = {**entry}
    for key in ("source", "config"):
        if isinstance(entry.get(key), str):
            found[key] = resolved_source(entry[key], folder)
    for key in ("vae", "preview"):
        if key in entry:
            found[key] = placed(entry[key], folder)
    if isinstance(entry.get("controlnets"), list):
        found["controlnets"] = [placed(net, folder) for net in entry["controlnets"]]
    return found


def _all_placed(entries: Any, folder: Path | None) -> Any:
    return {alias: placed(entry, folder) for alias, entry in entries.items()} if isinstance(entries, dict) else entries


def _read_words(table: str, kind: type[L], entries: Any, models: Mapping[str, Model], where: str) -> dict[str, L]:
    """Read the entries of [loras] or [embeddings]. Raises BadSettings with what is wrong."""
    if not isinstance(entries, dict):
        raise BadSettings(f"model registry {where}: expected tables [{table}.ALIAS]")
    found = {
        alias: _read(kind, kind.model_validate, entry, alias, f"model registry {where}: [{table}.{alias}]")
        for alias, entry in entries.items()
    }
    for one in found.values():
        if unknown := [name for name in one.models if name not in models]:
            place = f"model registry {where}: [{table}.{one.alias}]"
            raise BadSettings(f"{place} models: {unknown[0]!r} is not one of {', '.join(models)}")
    return found


def _lora_folder(entries: Any, where: str, folder: Path | None) -> Path | None:
    """Return the folder all of whose LoRAs are registered, if there is one. Raises BadSettings if it is not there."""
    given = entries.get("folder") if isinstance(entries, dict) else None
    if given is None or isinstance(given, dict):
        return None
    if not isinstance(given, str) or not given.strip():
        raise BadSettings(f"model registry {where}: [loras] folder: must be a folder (given: {given!r:.40})")
    path = (folder or Path()).absolute() / at_home(given)
    if not (is_there(path) and path.is_dir()):
        raise BadSettings(f"model registry {where}: [loras] folder: there is no folder {path}")
    return path


def _loras_in(folder: Path, named: Mapping[str, Lora]) -> dict[str, Lora]:
    """Return the LoRAs of a folder, by their files' names; those that have entries of their own are not there twice."""
    own = {lora.source for lora in named.values()}
    files = [file for file in sorted(folder.glob(f"*{SINGLE_FILE}")) if str(file) not in own]
    found = aliases_of(files, taken=named)
    return {alias: Lora(alias=alias, source=str(file)) for alias, file in found.items()}


def _read(kind: Any, validate: Callable[[Any], M], entry: Any, alias: str, place: str) -> M:
    """Read an entry as one of this kind. Raises BadSettings with its place and the field that is wrong."""
    if wrong := wrong_alias(alias):
        raise BadSettings(f"{place}: {wrong}")
    if not isinstance(entry, dict):
        raise BadSettings(f"{place}: expected a table")
    if "alias" in entry:
        raise BadSettings(f"{place} alias: the table's own name is its alias; drop the key")
    try:
        found = validate({**entry, "alias": alias})
        if isinstance(found, DiffusersModel | SimulatedModel):
            check_pixels(found.width, found.height)
    except ValidationError as error:
        raise BadSettings(f"{place} {explain(error, kind)}") from None
    except BadSpecification as error:
        raise BadSettings(f"{place} {error}") from None
    return found
