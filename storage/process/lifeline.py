"""Processes that must not outlive the one that started them.

The starter keeps one end of a pipe as the child's standard input and never writes. However the starter ends, also by
`kill -9`, the pipe closes and the child asks itself to stop, as if it had received SIGTERM.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO


def start_child(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that calls `stop_with_parent`, in a session of its own: a Ctrl-C reaches it only through us.

    Its output goes to `output`, or to our standard error: standard output is for our own answers (Celery writes
    there at its end).
    """
    said = sys.stderr if output is None else output
    return subprocess.Popen(  # noqa: S603 - our own commands
        command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=env, start_new_session=True
    )


def stop_with_parent() -> None:
    """Receive SIGTERM when the process that started this one ends; called in the child."""
    threading.Thread(target=_wait_for_the_end, name="lifeline", daemon=True).start()


def _wait_for_the_end() -> None:
    # Not through sys.stdin: the interpreter could not end while a thread holds that object's lock.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
