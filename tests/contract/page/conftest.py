"""A farm whose page is looked at, and who looks at it."""

from collections.abc import Iterator

import httpx
import pytest

from storage.access.keys import Role
from tests.contract.page.visitors import visitor
from tests.contract.stage import Stage, running_stage


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all files that are run by a process."""
    with running_stage(tmp_path_factory.mktemp("page") / "home") as stage:
        yield stage


@pytest.fixture
def ann(stage: Stage) -> Iterator[httpx.Client]:
    with visitor(stage, "ann") as client:
        yield client


@pytest.fixture
def admin(stage: Stage) -> Iterator[httpx.Client]:
    with visitor(stage, "eve", Role.ADMIN) as client:
        yield client
