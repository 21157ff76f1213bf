"""Logging: one line per event, on standard error, with the process's name and the event's data.

Callers pass data as data, `log.info("lease lost", extra={"job": …, "worker": …})`: the text format writes
it behind the message as key=value, the JSON format as fields of one object a line.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from storage.settings import Settings

#: Libraries that repeat themselves while a service is unavailable.
_CHATTER = ("celery", "kombu")
#: Libraries that log every connection, every address or every ticket.
_TALKATIVE = (
    *("alembic", "amqp", "botocore", "boto3", "s3transfer", "celery.worker.strategy", "celery.app.trace", "kombu"),
    *("httpcore", "httpx", "urllib3"),
)
_ONCE_IN_SECONDS = 60.0
_OURS = ("storage", "scheduler", "worker", "__main__")
#: What every record has; the rest was handed over as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class LogThrottle:
    """Lets a line pass once a minute for each key; safe to share between threads."""

    def __init__(self, seconds: float = _ONCE_IN_SECONDS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._passed_at: dict[Hashable, float] = {}

    def passes(self, key: Hashable = None) -> bool:
        """Return whether the line may be logged; then the next one of this key may not, for a minute."""
        now = self._clock()
        with self._lock:
            if now - self._passed_at.get(key, float("-inf")) < self._seconds:
                return False
            self._passed_at[key] = now
            return True


class _OnceAMinute(logging.Filter):
    """Lets each of a library's messages, by its place in the code, pass once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle()

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith(_CHATTER) or self._throttle.passes((record.pathname, record.lineno))


class _WithoutQueries(logging.Filter):
    """Leaves out what follows the question mark in a web server's lines: signatures of addresses stand there."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_without_query(one) for one in record.args)
        return True


class TextFormatter(logging.Formatter):
    """A line for people: time, level, process, message, the event's data as key=value, and what went wrong."""

    def __init__(self, process: str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s " + process.replace("%", "%%") + ": %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = {**fields_of(record), **_of_this_request()}
        error = fields.pop("error", None)
        said = "".join(f" {name}={_as_text(value)}" for name, value in fields.items())
        return super().formatMessage(record) + said + (f": {_one_line(error)}" if error is not None else "")


class JsonFormatter(logging.Formatter):
    """A JSON object on one line: time, level, process, logger, message, the event's data, and an exception if any."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # In this order: no field of an event can stand in for those above.
        return json.dumps({**line, **fields_of(record), **_of_this_request(), **line}, ensure_ascii=False, default=str)


@contextmanager
def of_request(request_id: str) -> Iterator[None]:
    """Put a request's id behind every line, whoever logs it, that is logged on its behalf within."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def _of_this_request() -> dict[str, Any]:
    request_id = _request_id.get()
    return {} if request_id is None else {"request_id": request_id}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the data that was handed over with an event of ours; other libraries' extras are their own business."""
    if record.name.partition(".")[0] not in _OURS:
        return {}
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def configure_logging(settings: Settings, process: str) -> None:
    """Set up this process's logging as the settings say; called once, in its entry point."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process) if settings.log_format == "json" else TextFormatter(process))
    handler.addFilter(_OnceAMinute())
    # A warning of Python's own would be a line that is no JSON.
    logging.captureWarnings(settings.log_format == "json")
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(one, _WithoutQueries) for one in access.filters):
        access.addFilter(_WithoutQueries())


def _without_query(value: object) -> object:
    path, mark, _ = value.partition("?") if isinstance(value, str) and value.startswith("/") else (value, "", "")
    return f"{path}?…" if mark else value


def _as_text(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    # A value ends where the next key begins.
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c == '"' for c in text) else text


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
