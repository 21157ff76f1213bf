"""What the web UI's door makes of a request."""

import json
from typing import Any

from storage.renders.views import JobView
from tests.contract.stage import Stage


class Drawn:
    """What the door made of a request."""

    def __init__(self, stage: Stage, **body: Any) -> None:
        answer = stage.client().post("/sdapi/v1/txt2img", json={"prompt": "a star", **body})
        self.status, self.answer = answer.status_code, answer.json()
        self.words = str(self.answer.get("detail", ""))
        self.info = json.loads(self.answer["info"]) if answer.is_success else {}
        self.remarks: list[str] = self.info.get("remarks", [])
        newest = stage.services.views.renders(limit=1, owner="ann")[0].id if answer.is_success else ""
        self.jobs: list[JobView] = list(stage.services.views.jobs(newest)) if newest else []

    @property
    def spec(self) -> dict[str, Any]:
        assert self.jobs, self.words
        return self.jobs[0].spec.fields()
