"""What is logged, and how often."""

import subprocess
import sys

import pytest

_TALK = """
import logging
from storage.process.logs import configure_logging
configure_logging("info", "w")
for _ in range(100):
    logging.getLogger("celery.worker.consumer.consumer").error("consumer: Cannot connect to %s", "redis")
    logging.getLogger("kombu.connection").warning("connection lost")
    logging.getLogger("worker.serving.batch").warning("job failed")
logging.getLogger("celery.worker.consumer.consumer").error("something else")
"""


@pytest.mark.parametrize(
    ("words", "times"), [("Cannot connect to redis", 1), ("connection lost", 1), ("job failed", 100), ("else", 1)]
)
def test_libraries_repeat_themselves_once_a_minute_and_the_farm_says_all(words: str, times: int) -> None:
    told = subprocess.run([sys.executable, "-c", _TALK], capture_output=True, text=True, check=True)
    assert told.stderr.count(words) == times
