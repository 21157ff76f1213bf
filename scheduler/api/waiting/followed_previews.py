"""Previews for those who follow renders: one question for all of them, a few times a second."""

import base64
import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping

from storage.broker.previews import WATCHED_SECONDS, Preview, Previews
from storage.errors import BrokerProblem
from storage.process.logs import LogThrottle
from storage.rules.ids import job_id

log = logging.getLogger(__name__)

#: By job: the step that a preview is of, and what is sent of it.
Told = Mapping[str, tuple[tuple[int, int], str]]


class FollowedPreviews:
    """Says who is watched, and reads their previews; used by one thread at a time."""

    def __init__(self, previews: Previews | None) -> None:
        self._previews = previews
        self._watched_at: dict[str, float] = {}
        self._throttle = LogThrottle()

    def look(self, renders: Collection[str], running: Mapping[str, Iterable[int]]) -> dict[str, Told]:
        """Return, by render, the last previews of its pictures that are on a device; without a broker, none.

        Args:
            renders: those whose previews somebody wants.
            running: by render, the indexes of pictures that are on a device.
        """
        if self._previews is None or not renders:
            self._watched_at.clear()
            return {}
        jobs = {job_id(render, index): (render, index) for render in renders for index in running.get(render, ())}
        try:
            self._watch(self._previews, renders)
            found = self._previews.get(jobs)
        except BrokerProblem as error:
            # Events come all the same.
            if self._throttle.passes():
                log.warning("no previews until the broker answers", extra={"error": error})
            return {}
        told: dict[str, dict[str, tuple[tuple[int, int], str]]] = {}
        for job, preview in found.items():
            render, index = jobs[job]
            told.setdefault(render, {})[job] = ((preview.attempt, preview.step), _text(preview, render, index))
        return dict(told)

    def _watch(self, previews: Previews, renders: Collection[str]) -> None:
        now = time.monotonic()
        due = [name for name in renders if now - self._watched_at.get(name, -1e9) > WATCHED_SECONDS / 3]
        if due:
            previews.watch(due)
            self._watched_at = {name: self._watched_at.get(name, now) for name in renders} | dict.fromkeys(due, now)


def _text(preview: Preview, render: str, index: int) -> str:
    data: dict[str, object] = {"id": preview.job, "render": render, "index": index}
    if preview.why_none is None:
        image = base64.b64encode(preview.image).decode()
        data |= {"step": preview.step, "steps": preview.steps, "media_type": "image/webp", "b64_json": image}
    else:
        data |= {"why_none": preview.why_none}
    return f"event: preview\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
