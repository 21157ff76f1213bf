"""Checks of everything the farm depends on, each with a fix for what is wrong.

Each check imports what it looks at, so that nothing is loaded for a service that this farm does not use.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from scheduler.local.home import Home
from scheduler.services import make_home
from storage.errors import BadSettings, BrokerProblem, DatabaseProblem, FarmError
from storage.settings import Settings, misspelt_settings

if TYPE_CHECKING:
    from storage.spec.registry import Registry

_LOW_DISK_BYTES = 2 * 2**30
#: SQLite before this can corrupt a WAL database in a rare race of several writers (sqlite.org, WAL-reset bug).
_SAFE_SQLITE = (3, 51, 3)


class Grade(StrEnum):
    GOOD = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    what: str
    grade: Grade
    words: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield findings in the order in which to fix them. Never raises; leaves the object store as it was."""
    for what, look in (
        ("settings", _look_at_settings),
        ("home", _look_at_home),
        ("models", _look_at_models),
        ("database", _look_at_database),
        ("broker", _look_at_broker),
        ("objects", _look_at_objects),
        ("workers", _look_at_workers),
    ):
        yield _examined(what, look, settings)


def _examined(what: str, look: Callable[[Settings], Finding | str], settings: Settings) -> Finding:
    try:
        found = look(settings)
    except FarmError as error:
        return Finding(what, Grade.BROKEN, str(error))
    return found if isinstance(found, Finding) else Finding(what, Grade.GOOD, found)


def _look_at_settings(_settings: Settings) -> Finding | str:
    if misspelt := misspelt_settings():
        return Finding("settings", Grade.WARNING, "; ".join(misspelt))
    return "embedded: no address is set" if _settings.embedded else "addresses from the environment"


def _look_at_home(settings: Settings) -> Finding | str:
    if not settings.home.exists():
        nearest = next(folder for folder in settings.home.absolute().parents if folder.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise BadSettings(f"FARM_HOME={settings.home} cannot be created: {nearest} cannot be written to")
        return f"{settings.home.absolute()}: will be created on first use; the setting FARM_HOME names another folder"
    make_home(settings)
    free = shutil.disk_usage(settings.home).free
    if free < _LOW_DISK_BYTES:
        return Finding("home", Grade.WARNING, f"{settings.home}: only {free / 2**30:.1f} GiB free")
    return f"{settings.home}: writable, {free / 2**30:.0f} GiB free"


def _look_at_models(settings: Settings) -> Finding | str:
    from scheduler.local.weights import missing
    from storage.spec.model_files import not_found
    from storage.spec.registry import read_registry

    try:
        registry = read_registry(settings)
    except BadSettings as error:
        stays = "; what runs goes on with the entries before it, and follows it once it is right"
        raise BadSettings(f"{error}{stays}") from None
    entries = {**registry.models, **{f"LoRA {alias}": lora for alias, lora in registry.loras.items()}}
    entries |= {f"embedding {alias}": one for alias, one in registry.embeddings.items()}
    gone = [f"{alias}: no {folder} here" for alias, entry in entries.items() for folder in not_found(entry)]
    # Of a farm of many machines, only those with a device need them.
    grade = Grade.BROKEN if settings.embedded else Grade.WARNING
    if gone:
        return Finding("models", grade, f"{'; '.join(gone)}; correct `source` in {settings.local_models_file}")
    if unfit := [f"{alias}: {wrong}" for alias, wrong in _unfit(registry)]:
        return Finding("models", grade, f"{'; '.join(unfit)}; correct or remove these in {settings.local_models_file}")
    fetched = [alias for alias, model in registry.models.items() if missing(model)]
    to_fetch = f"; to be downloaded: {', '.join(fetched)}" if fetched else ""
    return f"{', '.join(registry.models)} (default {registry.default}){to_fetch}"


def _unfit(registry: "Registry") -> Iterator[tuple[str, str]]:
    """Yield what cannot be drawn with though its files are here, as their headers and names say, and why."""
    from storage.spec.lora_header import wrong_in_header
    from storage.spec.models import DiffusersModel
    from storage.spec.wrong_files import wrong_in_files

    for alias, model in registry.models.items():
        if isinstance(model, DiffusersModel) and (wrong := wrong_in_files(model)):
            yield alias, wrong
    for alias, lora in registry.loras.items():
        if wrong := wrong_in_header(lora, None):
            yield f"LoRA {alias}", f"cannot be loaded: {wrong}"


def _look_at_database(settings: Settings) -> Finding | str:
    if settings.database_url is None and not settings.home.joinpath("farm.db").exists():
        return f"{settings.database}: will be created on first use"
    from storage.database import schema
    from storage.database.connection import Database

    database = Database(settings.database)
    with contextlib.closing(database):
        schema.check(database)
    if settings.database.startswith("sqlite") and sqlite3.sqlite_version_info < _SAFE_SQLITE:
        words = f"{database.shown}: fine on one machine (SQLite {sqlite3.sqlite_version}); for a farm use PostgreSQL"
        return Finding("database", Grade.GOOD, words)
    return f"{database.shown}: reachable, schema up to date"


def _look_at_broker(settings: Settings) -> Finding | str:
    url = settings.broker_url
    if url is None:
        farm = Home(settings).running()
        if farm is None:
            return "not set: `farm render` and `farm up` start one here"
        url = farm.broker_url
    from storage.broker.tickets import Tickets

    tickets = Tickets(settings.model_copy(update={"broker_url": url}))
    tickets.check()
    policy = tickets.eviction_policy()
    if policy not in (None, "noeviction"):
        words = f"{tickets.shown}: maxmemory-policy is {policy}; set it to noeviction, or a full Redis drops tickets"
        return Finding("broker", Grade.WARNING, words)
    return f"{tickets.shown}: reachable"


def _look_at_objects(settings: Settings) -> str:
    from storage.objects.probe import check_first_write_wins
    from storage.objects.store import open_objects

    objects = open_objects(settings)
    if settings.objects_url is None and not settings.home.exists():
        return f"{objects.shown}: will be created on first use"
    objects.check()
    check_first_write_wins(objects)
    return f"{objects.shown}: written, read and deleted; first write wins"


def _look_at_workers(settings: Settings) -> Finding | str:
    if settings.database_url is None and not settings.home.joinpath("farm.db").exists():
        return "none running"
    from storage.database import schema
    from storage.database.connection import Database
    from storage.fleet.workers import Workers
    from storage.spec.registry import read_registry

    registry = read_registry(settings)
    database = Database(settings.database)
    with contextlib.closing(database):
        try:
            schema.check(database)
            unserved = [alias for alias in registry.models if not Workers(database).serving(alias)]
        except (DatabaseProblem, BrokerProblem) as error:
            return Finding("workers", Grade.WARNING, f"unknown: {error}")
    if len(unserved) == len(registry.models):
        words = "none running" + ("" if settings.embedded else "; start `farm-worker` on a machine with a device")
        return Finding("workers", Grade.GOOD if settings.embedded else Grade.WARNING, words)
    if unserved:
        return Finding("workers", Grade.WARNING, f"no worker serves {', '.join(unserved)}")
    return "every model is served"
