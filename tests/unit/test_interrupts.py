"""A Ctrl-C is heard even where Python drops it."""

import os
import signal
import sys
import weakref
from typing import Any

import pytest

from scheduler.cli.interrupts import heard_interrupts


class Thing:
    """Something to refer to weakly."""


def test_an_interrupt_that_a_callback_dropped_is_raised_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[type[BaseException]] = []

    def note(unraisable: Any) -> None:
        dropped.append(unraisable.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", note)
    before = signal.getsignal(signal.SIGINT)
    with heard_interrupts() as check:
        check()
        thing = Thing()
        reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del thing
        assert (reference(), dropped) == (None, [KeyboardInterrupt])
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_raised_at_once_where_it_can_be() -> None:
    with heard_interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
