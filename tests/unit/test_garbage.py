"""What a process has loaded when it starts is not looked through again; what is garbage later still goes."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from storage.process.garbage import spare_what_is_loaded


class Circle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    frozen = gc.get_freeze_count()
    yield
    if not frozen:
        gc.unfreeze()


def test_what_was_there_is_passed_over_and_what_comes_later_is_not() -> None:
    garbage = weakref.ref(Circle())
    kept = Circle()
    spare_what_is_loaded()
    # What was garbage by then is gone.
    assert garbage() is None
    assert not any(one is kept for one in gc.get_objects())
    later = weakref.ref(Circle())
    gc.collect()
    assert later() is None
