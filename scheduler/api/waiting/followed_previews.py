"""Previews for those who follow renders: one question for all of them, a few times a second."""

import base64
import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from storage.broker.previews import WATCHED_SECONDS, Preview, Previews
from storage.errors import BrokerProblem
from storage.process.logs import LogThrottle
from storage.rules.ids import job_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FollowedPreview:
    """A preview of a picture of a render that is followed."""

    preview: Preview
    render: str
    index: int

    @property
    def step(self) -> tuple[int, int]:
        """What another preview of the same picture differs in."""
        return self.preview.attempt, self.preview.step

    @cached_property
    def text(self) -> str:
        """What followers are sent of it; made once for all of them."""
        data: dict[str, object] = {"id": self.preview.job, "render": self.render, "index": self.index}
        if self.preview.why_none is None:
            image = base64.b64encode(self.preview.image).decode()
            data |= {"step": self.preview.step, "steps": self.preview.steps}
            data |= {"media_type": "image/webp", "b64_json": image}
        else:
            data |= {"why_none": self.preview.why_none}
        return f"event: preview\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


#: By job.
LastPreviews = Mapping[str, FollowedPreview]


class FollowedPreviews:
    """Says who is watched, and reads their previews; used by one thread at a time."""

    def __init__(self, previews: Previews | None) -> None:
        self._previews = previews
        self._watched_at: dict[str, float] = {}
        self._throttle = LogThrottle()

    def look(self, renders: Collection[str], running: Mapping[str, Iterable[int]]) -> dict[str, LastPreviews]:
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
        last: dict[str, dict[str, FollowedPreview]] = {}
        for job, preview in found.items():
            render, index = jobs[job]
            last.setdefault(render, {})[job] = FollowedPreview(preview=preview, render=render, index=index)
        return dict(last)

    def _watch(self, previews: Previews, renders: Collection[str]) -> None:
        now = time.monotonic()
        due = [name for name in renders if now - self._watched_at.get(name, -1e9) > WATCHED_SECONDS / 3]
        if due:
            previews.watch(due)
            self._watched_at = {name: self._watched_at.get(name, now) for name in renders} | dict.fromkeys(due, now)
