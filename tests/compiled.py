"""Statements compiled once for all engines of a test process, of which almost every test has one of its own."""

from typing import Any

from sqlalchemy import Engine, create_engine

#: More than the farm has; statements that differ from test to test must not fill the memory.
_MOST = 5_000


class CompiledStatements(dict[Any, Any]):
    """A cache for engines whose dialects are alike, where SQLAlchemy's own keys name one engine's dialect."""

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get(_of_all(key), default)

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        if len(self) >= _MOST:
            self.clear()
        super().__setitem__(_of_all(key), compiled)


_compiled = CompiledStatements()


def create_sharing_engine(*arguments: Any, **settings: Any) -> Engine:
    """As SQLAlchemy's `create_engine`."""
    engine = create_engine(*arguments, **settings)
    engine.update_execution_options(compiled_cache=_compiled)
    return engine


def _of_all(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *rest = key
    return (dialect.name, dialect.driver, dialect.paramstyle, dialect.server_version_info, *rest)
