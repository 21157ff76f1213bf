"""How processes log: one line an event, on standard error, with the process's name."""

import logging


def configure_logging(level: str, process: str) -> None:
    """Call once in each process's entry point."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process}: %(message)s",
        force=True,
    )
    # Libraries that tell of every connection, and of every ticket.
    for name in ("alembic", "amqp", "botocore", "celery.worker.strategy", "celery.app.trace", "kombu", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
