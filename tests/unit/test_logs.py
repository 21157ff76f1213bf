"""What is logged, in which form, and how often."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from storage.process.logs import JsonFormatter, LogThrottle, TextFormatter

_TALK = """
import logging
import warnings
from storage.process.logs import configure_logging
from storage.settings import read_settings
configure_logging(read_settings(), "w")
for _ in range(100):
    logging.getLogger("celery.worker.consumer.consumer").error("consumer: Cannot connect to %s", "redis")
    logging.getLogger("kombu.connection").warning("connection lost")
    logging.getLogger("worker.serving.batch").warning("job failed", extra={"job": "r-000001"})
logging.getLogger("celery.worker.consumer.consumer").error("something else")
said = ("127.0.0.1:1", "GET", "/v1/pictures/r-000001?until=1&signature=s1gned", "1.1", 200)
logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *said)
for name in ("httpx", "httpcore.http11", "botocore.auth", "boto3.s3", "s3transfer.futures", "urllib3.connectionpool"):
    logging.getLogger(name).info("GET %s", "https://store/r-000001.png?X-Amz-Signature=s1gned")
warnings.warn("old")
"""


def talk(monkeypatch: pytest.MonkeyPatch, format: str) -> list[str]:  # noqa: A002
    monkeypatch.setenv("FARM_LOG_FORMAT", format)
    return subprocess.run([sys.executable, "-c", _TALK], capture_output=True, text=True, check=True).stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "times"), [("Cannot connect to redis", 1), ("connection lost", 1), ("job failed", 100), ("else", 1)]
)
def test_libraries_repeat_themselves_once_a_minute_and_the_farm_says_all(
    words: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(words in line for line in talk(monkeypatch, "text")) == times


def test_with_json_every_line_is_an_object_also_those_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in talk(monkeypatch, "JSON")]
    assert {line["message"] for line in lines if line["logger"] != "py.warnings"} == {
        "consumer: Cannot connect to redis",
        "connection lost",
        "job failed",
        "something else",
        '127.0.0.1:1 - "GET /v1/pictures/r-000001?… HTTP/1.1" 200',
    }
    assert ["UserWarning: old" in line["message"] for line in lines if line["logger"] == "py.warnings"] == [True]
    assert list(lines[0])[:5] == ["time", "level", "process", "logger", "message"]
    assert {line.get("job") for line in lines if line["message"] == "job failed"} == {"r-000001"}


def test_signed_addresses_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in ("info", "debug"):
        monkeypatch.setenv("FARM_LOG_LEVEL", level)
        lines = talk(monkeypatch, "text")
        assert [line.partition("w: ")[2] for line in lines if "GET" in line] == [
            '127.0.0.1:1 - "GET /v1/pictures/r-000001?… HTTP/1.1" 200'
        ]
        assert not any("s1gned" in line for line in lines)


def record(message: str, *args: Any, name: str = "worker.serving.batch", **fields: Any) -> logging.LogRecord:
    return logging.getLogger(name).makeRecord(name, logging.WARNING, "f.py", 1, message, args, None, extra=fields)


def test_a_line_for_people_ends_with_the_events_data_and_with_what_went_wrong() -> None:
    line = TextFormatter("cpu@here 100%").format(
        record("job met %s", "a fault", job="r-000001", fault="out of memory", seconds=0.25, error="no\n room")
    )
    assert line.endswith(
        ' WARNING cpu@here 100%: job met a fault job=r-000001 fault="out of memory" seconds=0.2: no room'
    )


def test_a_line_for_people_without_data_is_its_message() -> None:
    assert TextFormatter("w").format(record("ready")).endswith(" WARNING w: ready")


def test_a_line_for_machines_has_the_data_as_fields_and_none_of_them_replaces_its_own() -> None:
    line = json.loads(JsonFormatter("w").format(record("it said “no”", jobs=3, error=ValueError("x"), level="mine")))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "process": "w",
        "logger": "worker.serving.batch",
        "message": "it said “no”",
        "jobs": 3,
        "error": "x",
    }


def test_a_line_for_machines_holds_a_whole_traceback() -> None:
    failure = record("failed")
    try:
        raise ValueError("of\nlines")
    except ValueError:
        failure.exc_info = sys.exc_info()
    text = JsonFormatter("w").format(failure)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: of\nlines")


def test_what_other_libraries_attach_to_their_events_is_not_shown() -> None:
    foreign = record("started", name="uvicorn.error", color_message="\x1b[1mstarted")
    assert TextFormatter("w").format(foreign).endswith("w: started")
    assert "color_message" not in json.loads(JsonFormatter("w").format(foreign))


def test_a_throttled_line_passes_once_a_minute_for_each_key() -> None:
    now = 0.0
    throttle = LogThrottle(clock=lambda: now)
    assert [throttle.passes("a"), throttle.passes("a"), throttle.passes("b")] == [True, False, True]
    now = 59.0
    assert not throttle.passes("a")
    now = 60.0
    assert [throttle.passes("a"), throttle.passes("a")] == [True, False]
