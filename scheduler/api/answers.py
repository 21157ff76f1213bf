"""What the API answers with."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from storage.states import Priority, State
from storage.views import JobView, RenderView
from storage.workers import SILENT_SECONDS, WorkerView


class RenderAnswer(BaseModel):
    id: str
    state: str = Field(description="running, held, done, failed or cancelled")
    owner: str
    priority: str
    total: int
    done: int
    failed: int
    cancelled: int
    created_at: float = Field(description="Seconds since 1970.")
    finished_at: float | None
    position: int | None = Field(
        None, description="How many pictures of the model are rendered before this render's next one, as far as known."
    )
    seconds_left: float | None = Field(None, description="An estimate, from what the workers made in the last minute.")

    @classmethod
    def of(cls, render: RenderView, **more: Any) -> "RenderAnswer":
        return cls(
            id=render.id,
            state=render.state,
            owner=render.owner,
            priority=Priority(render.priority).name.lower(),
            total=render.total,
            done=render.done,
            failed=render.failed,
            cancelled=render.cancelled,
            created_at=render.created_at,
            finished_at=render.finished_at,
            **more,
        )


class AcceptedAnswer(RenderAnswer):
    seeds: list[int] = Field(description="Of its pictures, in their order; of a manifest the first 10,000.")
    remarks: list[str] = Field(default_factory=list, description="What is hardly meant, such as an ignored field.")


class DryAnswer(BaseModel):
    """What a dry run says."""

    total: int
    models: list[str]
    remarks: list[str]
    position: int | None = Field(description="How many pictures wait before the first of these.")
    seconds_left: float | None


class RenderPage(BaseModel):
    renders: list[RenderAnswer]
    next: str | None = Field(description="`after` of the next page; none if this is the last.")


class JobAnswer(BaseModel):
    id: str
    render: str
    index: int
    state: State
    seed: int
    prompt: str
    model: str
    progress: float = Field(description="0 to 1.")
    position: int | None = Field(None, description="How many pictures are rendered before this one.")
    attempt: int
    worker: str | None
    started_at: float | None
    finished_at: float | None
    image: str | None = Field(description="Where the picture is, if it is done.")
    sha256: str | None
    bytes: int | None
    fault: str | None
    error: str | None
    custom_id: str | None = Field(None, description="What the caller calls it.")
    labels: dict[str, Any] | None = None
    spec: dict[str, Any] | None = None
    made_with: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: JobView, **more: Any) -> "JobAnswer":
        done = job.state is State.DONE
        return cls(
            id=job.id,
            render=job.render_id,
            index=job.index,
            state=job.state,
            seed=job.spec.seed,
            prompt=job.spec.prompt,
            custom_id=job.custom_id,
            labels=None if job.labels is None else dict(job.labels),
            model=job.spec.model,
            progress=more.pop("progress", 1.0 if done else 0.0),
            attempt=job.attempt,
            worker=job.worker,
            started_at=job.started_at,
            finished_at=job.finished_at,
            image=f"/v1/jobs/{job.id}/image" if done else None,
            sha256=job.sha256,
            bytes=job.bytes,
            fault=job.fault,
            error=job.error,
            **more,
        )


class JobPage(BaseModel):
    jobs: list[JobAnswer]
    next: int | None = Field(description="`after` of the next page; none if this is the last.")


class CancelAnswer(BaseModel):
    id: str
    state: str
    cancelled: int = Field(description="How many pictures this call has cancelled; 0: it was too late, or done before.")


class RetryAnswer(BaseModel):
    id: str
    retried: int


class FileAnswer(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    reference: str = Field(description="How specifications name it, such as in `control_images`.")


class ModelAnswer(BaseModel):
    id: str = Field(description="Its alias, as requests name it.")
    # What OpenAI's clients read.
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "farm"
    kind: str
    default: bool
    pipeline: str | None
    takes: list[str] | None = Field(description="Controls beside size, steps and guidance; none: its worker knows.")
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    workers: int = Field(description="How many serve it now.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class WorkerAnswer(BaseModel):
    name: str
    state: str
    device: str
    model: str | None
    models: list[str]
    batch: int
    pictures: int
    rate: float = Field(description="Pictures a second over the last minute.")
    trouble: str | None
    silent_for: float

    @classmethod
    def of(cls, worker: WorkerView) -> "WorkerAnswer":
        return cls(
            name=worker.name,
            state="silent" if worker.silent_for > SILENT_SECONDS else worker.state,
            device=worker.device_name,
            model=worker.model,
            models=list(worker.models),
            batch=worker.batch,
            pictures=worker.pictures,
            rate=worker.rate,
            trouble=worker.trouble,
            silent_for=worker.silent_for,
        )


class ModelStats(BaseModel):
    waiting: dict[str, int] = Field(description="Pictures by priority, counted up to 100,000 each.")
    oldest_wait: float | None = Field(description="Seconds since the render of the next picture was submitted.")
    rate: float = Field(description="Pictures a second over the last minute.")
    workers: int


class StatsAnswer(BaseModel):
    models: dict[str, ModelStats]
    faults: dict[str, int] = Field(description="Of the last 24 hours, by class.")


class ReadyAnswer(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="What the farm stands on: `ok`, or what is wrong.")
