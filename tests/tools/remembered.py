"""Keeps what was found out about source files, by their text: to parse all of them takes seconds, to read them none."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / ".pytest_cache/sources"


@contextmanager
def remembering(tool: str, folder: Path = _FOLDER) -> Iterator[Callable[[str, Callable[[str], Any]], Any]]:
    """Yield what calls a function of a text, or returns what that returned for it the last time.

    It must return what JSON has, and depend on nothing but the text and `tool`, the file in which it stands. If either
    has changed, it is called again.
    """
    version = Path(tool).read_bytes()
    place = folder / f"{Path(tool).stem}.json"
    try:
        known = json.loads(place.read_text())
    except (OSError, ValueError):
        known = {}
    used: dict[str, Any] = {}

    def remember(text: str, find: Callable[[str], Any]) -> Any:
        key = hashlib.sha256(version + text.encode()).hexdigest()
        if key not in used:
            used[key] = known[key] if key in known else find(text)
        return used[key]

    yield remember
    # What nobody asked for is gone.
    if used.keys() != known.keys():
        folder.mkdir(parents=True, exist_ok=True)
        whole = place.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(used))
        whole.replace(place)
