"""The farm on both of its pairs of stores: SQLite with a folder, PostgreSQL with S3."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.settings import Settings
from tests.forks import Starter
from tests.integration.farm import MODELS, Farm, new_farm


@pytest.fixture(params=["sqlite+folder", "postgresql+s3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The addresses of a database with tables and of an empty object store."""
    if request.param == "sqlite+folder":
        return {"FARM_DATABASE_URL": request.getfixturevalue("sqlite"), "FARM_OBJECTS_URL": str(tmp_path / "objects")}
    s3: Settings = request.getfixturevalue("s3")
    return {
        "FARM_DATABASE_URL": request.getfixturevalue("postgres"),
        "FARM_OBJECTS_URL": s3.objects,
        "FARM_S3_ENDPOINT_URL": str(s3.s3_endpoint_url),
    }


@pytest.fixture
def farm(stores: dict[str, str], redis_url: str, tmp_path: Path, starter: Starter) -> Iterator[Farm]:
    """A farm without any process yet. Its leases outlast a busy machine; whoever waits for one takes `SHORT_LEASES`."""
    with farm_of(MODELS, stores | {"FARM_BROKER_URL": redis_url}, tmp_path, starter) as farm:
        yield farm


@contextmanager
def farm_of(models: str, addresses: Mapping[str, str], folder: Path, starter: Starter) -> Iterator[Farm]:
    """A farm of these models, as their file has them, at these addresses."""
    file = folder / "models.toml"
    file.write_text(models)
    environment = {
        "FARM_HOME": str(folder / "home"),
        "FARM_MODELS_FILE": str(file),
        "FARM_LEASE_SECONDS": "60",
        "FARM_RENEW_SECONDS": "1",
        "FARM_SWEEP_SECONDS": "0.5",
        **addresses,
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        settings = Settings()
    with new_farm(settings, folder, environment, starter) as farm:
        yield farm
