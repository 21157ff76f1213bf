"""Ctrl-C while a command waits: heard once, however unlucky its moment."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def heard_interrupts() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on Ctrl-C, and yield a check that raises it again if it was dropped.

    Python drops an exception that a signal raises within a weak reference's callback, and each import runs some: a
    Ctrl-C during the imports at the start of a farm would be lost. Outside the main thread, which gets no signals, the
    check does nothing.
    """
    interrupted = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
