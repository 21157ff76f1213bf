"""The event log of a run: one JSON object a line, `t` in seconds since its start."""

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Events:
    """Safe to write from any thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._output = file.open("w", encoding="utf-8")
        self._counts: Counter[str] = Counter()
        self._closed = False

    def write(self, actor: str, fault: str, **details: Any) -> None:
        with self._lock:
            if not self._closed:
                event = {"t": round(self.now(), 3), "actor": actor, "fault": fault, **details}
                self._output.write(json.dumps(event, default=str) + "\n")
                self._output.flush()
            self._counts[fault] += 1

    def now(self) -> float:
        return time.monotonic() - self._started

    def counts(self) -> Counter[str]:
        """How often each kind of event was written."""
        with self._lock:
            return Counter(self._counts)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._output.close()
