"""Under which alias this registry has what another program calls by a file's name, or by a hash."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from scheduler.cli.registered_hashes import RegisteredHashes
from storage.spec.model_files import public_source
from storage.spec.models import DiffusersModel
from storage.spec.registry import Registry


def take_model(
    fields: dict[str, Any], unread: dict[str, Any], registry: Registry, hashes: RegisteredHashes
) -> Iterator[str]:
    """Call a picture's model as this registry does; leave out, and tell, one that it does not have.

    A hash says more than a name: of two files of one name, it is the one that has it.
    """
    name, digits = fields.get("model"), str(unread.get("Model hash", ""))
    own = None if name is None else name if name in registry.models else _model_alias(name, registry)
    models = {alias: one for alias, one in registry.models.items() if isinstance(one, DiffusersModel)}
    has = hashes.has(models.get(own or ""), digits)
    alias = own if has else _same_vae(hashes.find(models, digits), models, unread, hashes) or own
    if alias is None:
        fields.pop("model", None)
        if name is not None:
            yield f"model: {name!r} of the picture is not registered here; --model says which to take"
        return
    fields["model"] = alias
    if alias != own:
        unread.pop("Model hash")
        if own is not None:
            yield f"model: {own} is another file than the picture's, whose hash {digits} {alias} has: taken is {alias}"
    elif has:
        unread.pop("Model hash")
    elif has is False:
        yield f"model: {own} is another file than the picture's: none that is registered here has its hash, {digits}"
    yield from _on_vae(alias, models, unread, hashes)


def _same_vae(
    found: Iterable[str], models: Mapping[str, DiffusersModel], unread: Mapping[str, Any], hashes: RegisteredHashes
) -> str | None:
    """Return, of models that may differ in their VAE alone, one with the picture's; or else the first."""
    aliases = [*found]
    digits = str(unread.get("VAE hash", ""))
    return next((one for one in aliases if hashes.has(models[one].vae, digits)), next(iter(aliases), None))


def _on_vae(
    alias: str, models: Mapping[str, DiffusersModel], unread: dict[str, Any], hashes: RegisteredHashes
) -> Iterator[str]:
    """Remark on a picture's VAE that is surely not the model's; drop what was read of one that is."""
    digits, model = str(unread.get("VAE hash", "")), models.get(alias)
    if model is None or not digits:
        return
    has = hashes.has(model.vae, digits)
    if has:
        unread.pop("VAE hash")
        unread.pop("VAE", None)
    elif has is False or model.vae is None:
        own = "its own" if model.vae is None else f"{public_source(model.vae)}, another one"
        known = (f", which {one} has" for one in hashes.find(_vaes(models), digits))
        said = f"{unread.get('VAE', 'one')} of the hash {digits}{next(known, '')}"
        yield f"vae: the picture has {said}; {alias} has {own}"


def _vaes(models: Mapping[str, DiffusersModel]) -> dict[str, Any]:
    return {alias: one.vae for alias, one in models.items() if one.vae is not None}


def take_loras(
    fields: dict[str, Any], digits_of: Mapping[str, str], registry: Registry, hashes: RegisteredHashes
) -> Iterator[str]:
    """Call a picture's LoRAs as this registry does; leave out, and tell, those that it does not have.

    Args:
        digits_of: beginnings of hashes, by the picture's names in small letters.
    """
    taken: dict[str, float] = {}
    for name, scale in fields.pop("loras", {}).items():
        own = name if name in registry.loras else _lora_alias(name, registry)
        digits = digits_of.get(name.lower(), "")
        has = hashes.has(registry.loras[own], digits) if own else None
        other = (
            None
            if has or not digits or (own and has is None)
            else next(iter(hashes.find(registry.loras, digits)), None)
        )
        alias = other or own
        if alias is None:
            yield f"loras: {name!r} of the picture is left out: it is not registered here (`farm models add`)"
            continue
        if has is False:
            instead = f"{alias} has it, and is taken" if other else "none that is registered here has it"
            yield f"loras: {own} is another file than the picture's, whose hash is {digits}: {instead}"
        taken[alias] = scale
    if taken:
        fields["loras"] = taken


def take_embeddings(
    fields: dict[str, Any], digits_of: Mapping[str, str], registry: Registry, hashes: RegisteredHashes
) -> Iterator[str]:
    """Write textual inversions, which are words of a picture's prompts, as this registry calls them; tell the others.

    Args:
        digits_of: beginnings of hashes, by the picture's names.
    """
    for name, digits in digits_of.items():
        if any(alias.casefold() == name.casefold() for alias in registry.embeddings):
            continue
        if (alias := next(iter(hashes.find(registry.embeddings, digits)), None)) is None:
            yield f"embeddings: {name!r} of the picture is not registered here, and read as words (`farm models add`)"
            continue
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
        for field in ("prompt", "negative_prompt"):
            if field in fields:
                fields[field] = word.sub(alias, fields[field])


def take_ours(
    fields: dict[str, Any], made_with: Mapping[str, Any], registry: Registry, hashes: RegisteredHashes
) -> Iterator[str]:
    """Call as this registry does what a picture of the farm's own has by names that are unknown here.

    By the hashes in its recipe: another farm may have the same files by other names.
    """
    if fields.get("model") not in (None, *registry.models):
        yield from take_model(fields, {"Model hash": made_with.get("sha256") or ""}, registry, hashes)
    used = {name: str(one.get("past_header", "")) for name, one in _table(made_with, "loras").items()}
    if any(name not in registry.loras for name in fields.get("loras", {})):
        yield from take_loras(fields, {name.lower(): digits for name, digits in used.items()}, registry, hashes)
    words = {name: str(one.get("sha256", "")) for name, one in _table(made_with, "embeddings").items()}
    yield from take_embeddings(fields, words, registry, hashes)


def _table(made_with: Mapping[str, Any], name: str) -> Mapping[str, Mapping[str, Any]]:
    found = made_with.get(name)
    return {key: one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def _model_alias(name: str, registry: Registry) -> str | None:
    """Return the alias of a model that is called by it in another case, or by its file."""
    files = {alias: public_source(one) for alias, one in registry.models.items() if isinstance(one, DiffusersModel)}
    return _by_name(name, registry.models, files)


def _lora_alias(name: str, registry: Registry) -> str | None:
    """Return the alias of a LoRA that is called by it in another case, or by its file."""
    return _by_name(name, registry.loras, {alias: public_source(one) for alias, one in registry.loras.items()})


def _by_name(name: str, aliases: Iterable[str], files: Mapping[str, str]) -> str | None:
    wanted = _bare(name)
    return next((alias for alias in aliases if wanted in (_bare(alias), _bare(files.get(alias, alias)))), None)


def _bare(name: str) -> str:
    return PurePath(name).name.casefold().removesuffix(".safetensors")
