"""A store that replaces pictures is served by nobody."""

import pytest

from storage.settings import Settings
from tests.integration.farm import Farm
from tests.servers import PATIENCE_SECONDS

pytestmark = pytest.mark.parametrize("stores", ["sqlite+folder"], indirect=True)


def test_a_machine_does_not_serve_a_store_that_ignores_conditional_writes(
    s3_with_signatures: Settings, farm: Farm
) -> None:
    store = {
        "FARM_OBJECTS_URL": s3_with_signatures.objects,
        "FARM_S3_ENDPOINT_URL": str(s3_with_signatures.s3_endpoint_url),
    }
    machine = farm.machine(1, name="here", **store)
    assert machine.wait(PATIENCE_SECONDS) == 3
    assert "the store ignores `If-None-Match: *`" in (farm.folder / "workers-here.log").read_text()
    assert farm.services.workers.all() == []
