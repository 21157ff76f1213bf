"""A render as Replicate's clients know it: a prediction."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from storage.errors import NotFound
from storage.renders.views import JobView, RenderView, Views
from storage.rules.states import RenderState, State
from storage.rules.times import Time, rfc3339

#: Pictures of a prediction.
MOST_PICTURES = 100
PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]
_STATUSES: Mapping[RenderState, PredictionStatus] = {"done": "succeeded", "failed": "failed", "cancelled": "canceled"}


class Prediction(BaseModel):
    """Describe a prediction, as Replicate does."""

    id: str = Field(description="Also the id of its render.")
    model: str = Field(description="`farm/` and the model's alias.")
    version: str = Field(description="The model's alias.")
    status: PredictionStatus = Field(description="How it stands.")
    input: dict[str, Any] = Field(description="The prompt, the first picture's seed, and how many pictures.")
    output: list[str] | None = Field(description="URLs of the pictures, or the pictures themselves (data:).")
    error: str | None = Field(description="Why a picture has failed, if one has.")
    logs: str = Field(description="Progress, as a line of tqdm.")
    remarks: list[str] = Field(
        default_factory=list, description="When it is created: warnings, such as a field that is ignored."
    )
    metrics: dict[str, float] = Field(description="`predict_time`: seconds since its first picture was started.")
    created_at: Time | None = Field(description="RFC 3339.")
    started_at: Time | None = Field(description="RFC 3339; null until a picture is being rendered.")
    completed_at: Time | None = Field(description="RFC 3339; null until it is over.")
    urls: dict[str, str] = Field(description="Where to `get` it, and where to `cancel` it.")


def prediction_of(
    views: Views, render: RenderView, api_url: str, *, output: Callable[[JobView], str] | None
) -> Prediction:
    """Return a render as a prediction.

    Args:
        api_url: how its reader reaches the API.
        output: returns the address of a finished picture, or the picture itself; None: there is no output in it.

    Raises NotFound if it was deleted meanwhile.
    """
    jobs = list(views.jobs(render.id, limit=MOST_PICTURES))
    if not jobs:
        raise NotFound(f"no render with id {render.id!r}; it was deleted")
    done = [job for job in jobs if job.state is State.DONE]
    started = min((job.started_at for job in jobs if job.started_at is not None), default=None)
    failed = next((job.error for job in jobs if job.state is State.FAILED), None)
    address = f"{api_url.rstrip('/')}/v1/predictions/{render.id}"
    metrics = {"predict_time": render.finished_at - started} if render.finished_at and started else {}
    spec = jobs[0].spec
    return Prediction(
        id=render.id,
        model=f"farm/{spec.model}",
        version=spec.model,
        status=_status(render, started=started is not None),
        input={"prompt": spec.prompt, "seed": spec.seed, "num_outputs": render.total},
        output=[output(job) for job in done] if output is not None and done and render.finished else None,
        error=failed,
        logs=_logs(render, views.progress(render.id)),
        metrics=metrics,
        created_at=rfc3339(render.created_at),
        started_at=rfc3339(started),
        completed_at=rfc3339(render.finished_at),
        urls={"get": address, "cancel": f"{address}/cancel"},
    )


def _status(render: RenderView, *, started: bool) -> PredictionStatus:
    if not render.finished:
        return "processing" if started else "starting"
    return _STATUSES[render.state]


def _logs(render: RenderView, shares: Mapping[int, float]) -> str:
    """Return a line of tqdm: Replicate's clients read the progress from it."""
    percent = int(100 * (render.total - render.remaining + sum(shares.values())) / render.total)
    return f"{percent:3d}%|{'█' * (percent // 10):10}| {render.total - render.remaining}/{render.total}\n"
