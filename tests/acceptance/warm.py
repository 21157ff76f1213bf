"""Runs `farm` commands as forks of a process that has imported everything: each takes a fraction of a second.

Reads orders from standard input, one JSON object a line, and answers each with the command's exit code.
"""

import gc
import json
import os
import signal
import sys
from typing import Any

from scheduler.cli.main import main as farm


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
