"""How processes log: one line an event, on standard error, with the process's name."""

import logging
import time

#: Libraries that say the same again and again while a service is away.
_CHATTER = ("celery", "kombu")
_ONCE_IN_SECONDS = 60.0


class _OnceAMinute(logging.Filter):
    """Lets each of a library's messages pass once a minute, told apart by where in its code it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_CHATTER):
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._passed_at.get(place, float("-inf")) < _ONCE_IN_SECONDS:
            return False
        self._passed_at[place] = now
        return True


def configure_logging(level: str, process: str) -> None:
    """Call once in each process's entry point."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process}: %(message)s",
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OnceAMinute())
    # Libraries that tell of every connection, and of every ticket.
    for name in ("alembic", "amqp", "botocore", "celery.worker.strategy", "celery.app.trace", "kombu", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
