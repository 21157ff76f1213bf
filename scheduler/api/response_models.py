"""Answers of the API, beside the forms of renders, jobs and schedules."""

from typing import Literal

from pydantic import BaseModel, Field

from scheduler.results.json_forms import ExamplePicture, JobForm, RenderForm
from storage.fleet.workers import SILENT_SECONDS, WorkerView


class AcceptedAnswer(RenderForm):
    seeds: list[int] = Field(description="Of its pictures, in their order; at most the first 10,000.")
    remarks: list[str] = Field(default_factory=list, description="Warnings, such as a field that is ignored.")


class DryAnswer(BaseModel):
    """Report a dry run."""

    id: str | None = Field(
        description="The render that was accepted under this idempotency key, and would be returned; null: a new one."
    )
    total: int = Field(description="How many pictures the render would have.")
    models: list[str]
    examples: list[ExamplePicture] = Field(
        description="Three pictures of different prompts, as they would be rendered."
    )
    remarks: list[str] = Field(description="Warnings, such as a field that is ignored.")
    position: int | None = Field(description="How many pictures are ahead in the queue.")
    seconds_left: float | None = Field(description="Estimated time until all pictures would be done.")


class RenderPage(BaseModel):
    renders: list[RenderForm]
    next: str | None = Field(description="`after` of the next page; null on the last page.")


class JobPage(BaseModel):
    jobs: list[JobForm]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


class CancelAnswer(BaseModel):
    id: str
    state: str = Field(description="Its state now; `deleted`, if it was to be.")
    cancelled: int = Field(description="How many pictures this call has cancelled; 0: none was left to cancel.")


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
    default: bool = Field(description="Whether it is used for requests that name no model.")
    pipeline: str | None
    takes: list[str] | None = Field(
        description="Controls beside size, steps and guidance; null: known only to its workers."
    )
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    workers: int = Field(description="How many workers serve it now.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class WorkerAnswer(BaseModel):
    name: str
    state: str
    device: str
    model: str | None = Field(description="The model that it renders with now.")
    models: list[str] = Field(description="The models that it serves.")
    batch: int = Field(description="How many pictures it renders now.")
    pictures: int = Field(description="How many it has made since it started.")
    rate: float = Field(description="Pictures a second over the last minute.")
    trouble: str | None = Field(description="What it waits for, such as an unavailable object store.")
    silent_for: float = Field(description="Seconds since its last heartbeat.")

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
    """Report the storage that an owner's pictures take."""

    owner: str
    renders: int = Field(description="How many renders have pictures there.")
    pictures: int
    bytes: int
    oldest: float = Field(description="When the oldest picture was made, seconds since 1970.")
    newest: float


class ReadyAnswer(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="Each service that the farm needs: `ok`, or what is wrong.")
