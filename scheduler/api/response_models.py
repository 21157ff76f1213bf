"""What the API answers with."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.renders.views import JobView, RenderView
from storage.rules.states import Priority, State


class RenderAnswer(BaseModel):
    id: str = Field(examples=["k7m2p9x4tq8z"])
    state: str = Field(description="running, held, done, failed or cancelled")
    owner: str
    priority: str = Field(description="interactive, normal or bulk")
    total: int = Field(description="How many pictures it has; those that are in none of the next three are to go.")
    done: int
    failed: int
    cancelled: int
    created_at: float = Field(description="Seconds since 1970.")
    finished_at: float | None = Field(description="Since when no picture is to go.")
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

    total: int = Field(description="How many pictures it would have.")
    models: list[str]
    remarks: list[str] = Field(description="What is hardly meant, such as an ignored field.")
    position: int | None = Field(description="How many pictures wait before the first of these.")
    seconds_left: float | None = Field(description="An estimate of when all would be done.")


class RenderPage(BaseModel):
    renders: list[RenderAnswer]
    next: str | None = Field(description="`after` of the next page; none if this is the last.")


class JobAnswer(BaseModel):
    """One picture, whether it is made or not."""

    id: str = Field(examples=["k7m2p9x4tq8z-000012"])
    render: str = Field(description="The id of its render.")
    index: int = Field(description="Which of its render's pictures it is, from 0.")
    state: State
    seed: int
    prompt: str
    model: str
    progress: float = Field(description="0 to 1.")
    position: int | None = Field(None, description="How many pictures are rendered before this one.")
    attempt: int = Field(description="How often it was begun; some faults do not count.")
    worker: str | None = Field(description="Who had it last.")
    started_at: float | None = Field(description="Seconds since 1970.")
    finished_at: float | None = Field(description="Seconds since 1970.")
    image: str | None = Field(description="Where the picture is, if it is done.")
    sha256: str | None = Field(description="Of the picture's file.")
    bytes: int | None = Field(description="Of the picture's file.")
    fault: str | None = Field(description="The class of what went wrong last.")
    error: str | None = Field(description="What went wrong last.")
    custom_id: str | None = Field(None, description="What the caller calls it.")
    labels: dict[str, Any] | None = Field(None, description="What else the caller said of it.")
    spec: dict[str, Any] | None = Field(None, description="Everything that was asked of it, defaults filled in.")
    made_with: dict[str, Any] | None = Field(None, description="Weights, versions and device that made it.")

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
    retried: int = Field(description="How many pictures are in the queue again.")


class FileAnswer(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str = Field(description="input, manifest or batch")
    status: Literal["processed"] = "processed"
    reference: str = Field(description="How specifications name it, such as in `control_images`.")


class ModelAnswer(BaseModel):
    id: str = Field(description="Its alias, as requests name it.")
    # What OpenAI's clients read.
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "farm"
    kind: str
    default: bool = Field(description="Whether it is taken where a request names none.")
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
    model: str | None = Field(description="The one that it renders with now.")
    models: list[str] = Field(description="Those that it serves.")
    batch: int = Field(description="How many pictures it renders now.")
    pictures: int = Field(description="How many it has made since it was started.")
    rate: float = Field(description="Pictures a second over the last minute.")
    trouble: str | None = Field(description="What it waits for, such as a store that is away.")
    silent_for: float = Field(description="Seconds since it was heard of.")

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


class UsageAnswer(BaseModel):
    """An owner's pictures in the store."""

    owner: str
    renders: int = Field(description="How many renders have pictures there.")
    pictures: int
    bytes: int
    oldest: float = Field(description="When the oldest picture was made, seconds since 1970.")
    newest: float


class ReadyAnswer(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="What the farm stands on: `ok`, or what is wrong.")
