"""Runs `farm` commands as forks of a process that has imported everything: each takes a fraction of a second.

Reads orders from standard input, one JSON object a line, and answers each with the command's exit code.
"""

import gc
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

from scheduler.cli.main import COMMANDS
from scheduler.cli.main import main as farm

#: What commands import only where they need it.
_HEAVY = ("alembic.command", "boto3", "celery", "fastapi", "kombu", "rich.progress", "sqlalchemy.dialects.postgresql")


def become(order: dict[str, Any]) -> None:
    """In the fork: be the `farm` command that was ordered. Never returns."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, file in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    # Whatever hangs ends with exit code -14.
    signal.alarm(order["seconds"])
    sys.argv = ["farm", *order["arguments"]]
    farm()


def main() -> None:
    for command in COMMANDS.values():
        command.load()
    for name in (*_HEAVY, "scheduler.api.app", "scheduler.api.context", "scheduler.local.doctor"):
        import_module(name)
    # Else each fork copies the memory page by page as its collector looks through it.
    gc.freeze()
    for line in sys.stdin:
        if not (child := os.fork()):
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
