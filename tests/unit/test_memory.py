"""What a process has freed goes back to the system."""

import os
import platform
import subprocess
import sys

import pytest

_SERVED = """
import sys
import psutil
from storage.process.memory import return_freed_memory
if sys.argv[1] == "given back":
    return_freed_memory()
bytearray(30 * 2**20)  # freed: from now on glibc takes smaller ones from its pools
before = psutil.Process().memory_info().rss
large, small = [], []
for _ in range(40):
    large.append(bytearray(b"x" * (4 * 2**20)))
    small.append(bytearray(200_000))
large.clear()
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_what_large_requests_took_is_given_back() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def kept_mib(how: str) -> int:
        served = subprocess.run(
            [sys.executable, "-c", _SERVED, how], capture_output=True, text=True, check=True, env=environment
        )
        return int(served.stdout)

    assert kept_mib("given back") < 16
    assert kept_mib("as ever") > 24, "glibc has become better: is this still needed?"
