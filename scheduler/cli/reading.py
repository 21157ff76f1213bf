"""Open the farm for commands about what is there already: where none was ever used, they leave nothing behind."""

from scheduler.cli.output import hint
from scheduler.services import Services, open_services
from storage.errors import NotFound
from storage.settings import Settings, read_settings


def services_to_read(settings: Settings | None = None) -> Services:
    """Open the services; over no rows at all, with a word, where no farm was ever used on this machine.

    Raises as `open_services`.
    """
    settings = settings or read_settings()
    if unused := _is_unused(settings):
        hint(f"{_where(settings)}; the setting FARM_HOME names its folder")
    return open_services(settings, in_memory=unused)


def services_to_find(name: str, settings: Settings | None = None) -> Services:
    """Open the services for a command about the render or job of this name.

    Raises NotFound where no farm was ever used on this machine; else as `open_services`.
    """
    settings = settings or read_settings()
    if _is_unused(settings):
        raise NotFound(f"no {name[:40]!r}: {_where(settings)}; the setting FARM_HOME names its folder")
    return open_services(settings)


def _is_unused(settings: Settings) -> bool:
    return settings.database_url is None and not settings.home.joinpath("farm.db").exists()


def _where(settings: Settings) -> str:
    return f"no farm was ever used in {settings.home.absolute()}"
