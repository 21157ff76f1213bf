"""Some seconds of what strangers send for an hour with `make hostile`; speed and memory are for that to judge."""

from pathlib import Path

import pytest

from tests.forks import Starter
from tests.hostile.siege import Terms, lay

pytestmark = pytest.mark.slow


def test_strangers_get_no_internal_error_and_nothing_that_is_not_theirs(tmp_path: Path, starter: Starter) -> None:
    siege = lay(Terms(seconds=8, undisturbed=1), tmp_path, lambda _: None, starter)

    assert siege.errors == []
    assert siege.let_in == []
    assert siege.tracebacks == []
    assert siege.ended == []
    assert siege.lost == siege.doubled == []
    assert siege.undisturbed.errors == siege.hostile.errors == []
    assert siege.accepted > 0
    kinds = {"generated", "bomb", "slow client", "vanishing client", "replayed address", "forged address"}
    crowds = {"stream in a crowd", "caller in a crowd"}
    assert kinds | crowds | {"forged or revoked key"} == set(siege.requests)
