"""What a process loads before it needs it: commands start at once only if the large libraries stay where they are."""

import subprocess
import sys
from pathlib import Path

import pytest

_LARGE = "alembic boto3 botocore celery kombu redis fastapi torch"
_PROGRAM = """
import sys
from scheduler.services import open_services
from storage.settings import read_settings
{then}
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "then",
    ["pass", "open_services(read_settings(home=sys.argv[1])).views"],
    ids=["services are named", "services are opened over an up-to-date database and a folder"],
)
def test_opening_the_farms_services_loads_no_client_of_buckets_brokers_or_migrations(then: str, tmp_path: Path) -> None:
    # Made by the first process, found by the second.
    loaded = [_loaded(then, tmp_path) for _ in range(2)]
    assert loaded[1] == ""


def _loaded(then: str, home: Path) -> str:
    command = [sys.executable, "-c", _PROGRAM.format(then=then), str(home), *_LARGE.split()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
