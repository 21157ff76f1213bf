"""Answers of the API, beside the forms of renders, jobs and schedules."""

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from scheduler.results.json_forms import ExamplePicture, JobForm, RenderForm
from storage.fleet.slots import LoraCallWay
from storage.fleet.steps import Steps
from storage.fleet.workers import SILENT_SECONDS, WorkerView
from storage.rules.states import State
from storage.rules.times import Time


class AcceptedAnswer(RenderForm):
    """Describe a render that was just accepted."""

    seeds: list[int] = Field(description="Of its pictures, in their order; at most the first 10,000.")
    remarks: list[str] = Field(default_factory=list, description="Warnings, such as a field that is ignored.")


class DryAnswer(BaseModel):
    """Report a dry run."""

    id: str | None = Field(
        description="The render that was accepted under this idempotency key, and would be returned; null: a new one."
    )
    total: int = Field(description="How many pictures the render would have.")
    models: list[str] = Field(description="The models that it would need.")
    examples: list[ExamplePicture] = Field(
        description="Three pictures of different prompts, as they would be rendered."
    )
    remarks: list[str] = Field(description="Warnings, such as a field that is ignored.")
    position: int | None = Field(description="How many pictures are ahead in the queue.")
    seconds_left: float | None = Field(description="Estimated time until all pictures would be done.")
    device_seconds: float | None = Field(
        None, description="How long the pictures alone would take one device, by recent work; null: unknown."
    )
    bytes: int | None = Field(None, description="How much storage they would take, by recent work; null: unknown.")
    combinations: list[int] | None = Field(
        None, description="How many prompts each of the `templates` makes, at most; null where there are none."
    )


class RenderPage(BaseModel):
    """List renders, a page at a time."""

    renders: list[RenderForm] = Field(description="Newest first.")
    next: str | None = Field(description="`after` of the next page; null on the last page.")


class JobPage(BaseModel):
    """List a render's jobs, a page at a time."""

    jobs: list[JobForm] = Field(description="In their order in the render.")
    next: int | None = Field(description="`after` of the next page; null on the last page.")


class CancelAnswer(BaseModel):
    """Report what was cancelled, and perhaps deleted."""

    id: str = Field(description="Of the render, or the job.")
    state: State | Literal["deleted"] = Field(description="How it stands now; `deleted`, if it was to be.")
    cancelled: int = Field(description="How many pictures this call has cancelled; 0: none was left to cancel.")


class RetryAnswer(BaseModel):
    """Report what was put into the queue again."""

    id: str = Field(description="Of the render.")
    retried: int = Field(description="How many pictures are in the queue again.")


class FileAnswer(BaseModel):
    """Describe an uploaded file, as OpenAI does."""

    id: str = Field(description="How `manifest` and batches name it.")
    object: Literal["file"] = Field("file", description="Always `file`.")
    bytes: int = Field(description="Its size.")
    created_at: int = Field(description="Seconds since 1970.")
    filename: str = Field(description="As it was sent.")
    purpose: str = Field(description="input, manifest or batch")
    status: Literal["processed"] = Field("processed", description="Always `processed`: it was checked as it came.")
    reference: str = Field(description="How specifications name it, such as in `control_images`.")


class ModelAnswer(BaseModel):
    """Describe a model."""

    id: str = Field(description="Its alias, as requests name it.")
    # What OpenAI's clients read.
    object: Literal["model"] = Field("model", description="Always `model`.")
    created: int = Field(0, description="Always 0: nobody knows.")
    owned_by: str = Field("farm", description="Always `farm`.")
    kind: Literal["diffusers", "simulated"] = Field(
        description="What it is made of: `diffusers`, or `simulated` for trying out a farm."
    )
    default: bool = Field(description="Whether it is used for requests that name no model.")
    pipeline: str | None = Field(description="The class of its pipeline, in Diffusers; null: of another kind.")
    takes: list[str] | None = Field(
        description="Controls beside size, steps and guidance; null: known only to its workers."
    )
    width: int = Field(description="Of pictures whose request names none.")
    height: int = Field(description="Of pictures whose request names none.")
    num_inference_steps: int = Field(description="Denoising steps, where a request names none.")
    guidance_scale: float = Field(description="Where a request names none.")
    workers: int = Field(description="How many workers serve it now.")


class ModelList(BaseModel):
    """List the models, as OpenAI does."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[ModelAnswer] = Field(description="In the registry's order.")


class SlotsAnswer(BaseModel):
    """Describe a worker's slots: pictures that are denoised together, each at a step of its own."""

    limit: int = Field(description="How many pictures may be denoised together now.")
    used: int = Field(description="How many are.")
    aside: int = Field(description="How many have begun and let more urgent ones go first.")
    ahead: int = Field(description="How many were claimed ahead and have not begun.")
    joined: int = Field(description="How many pictures have joined others, since it started.")
    stepped_aside: int = Field(description="How often one stepped aside, since it started.")
    ticks: int = Field(description="Calls of the model, since it started.")
    rows_used: int = Field(description="Rows of those calls that were pictures'.")
    rows_computed: int = Field(description="All rows of those calls, filled up to fixed shapes.")
    mixed_ticks: int = Field(description="Calls for pictures with different LoRAs.")
    apart_ticks: int = Field(description="Those of them in which each set of LoRAs had a call of its own.")
    lora_calls: LoraCallWay | None = Field(
        description="How the last of these was made: what is faster there, `together` or `apart`, or a `trial` of both."
    )


class StepsAnswer(BaseModel):
    """Describe how far the pictures on a worker's device are."""

    pictures: int = Field(description="How many.")
    done: int = Field(description="How many of their steps are done, together.")
    of: int = Field(description="Of how many.")


class WorkerAnswer(BaseModel):
    """Describe a worker."""

    name: str = Field(description="Machine and device.")
    state: Literal["idle", "loading", "rendering", "quarantined", "silent"] = Field(
        description="What it does now; silent: it has not been heard of lately."
    )
    device: str = Field(description="What it renders with, such as `NVIDIA H200`.")
    model: str | None = Field(description="The model that it renders with now.")
    models: list[str] = Field(description="The models that it serves.")
    batch: int = Field(description="How many pictures it renders now.")
    pictures: int = Field(description="How many it has made since it started.")
    rate: float = Field(description="Pictures a second over the last minute.")
    trouble: str | None = Field(description="What it waits for, such as an unavailable object store.")
    threads: int | None = Field(description="By how many threads it rendered its last batch, on a CPU.")
    slots: SlotsAnswer | None = Field(description="Of its last model; null if it renders batch by batch.")
    batch_limit: int | None = Field(description="How many pictures a call of its last model has at most.")
    limit_reason: str | None = Field(
        description="Why: `registry`, `learned`, `default` (nothing is learned yet), `trial`, `memory` or `compiled`."
    )
    loaded: list[str] = Field(description="The models that it holds in memory, the one used last at the end.")
    silent_for: float = Field(description="Seconds since its last heartbeat.")
    idle_share: float | None = Field(
        None,
        description="0 to 1: how much of the last ten minutes, or since it started, its device rendered nothing. A "
        "batch counts when it is recorded.",
    )
    steps: StepsAnswer | None = Field(
        None, description="Of the pictures on its device that somebody follows; null: of none."
    )

    @classmethod
    def of(cls, worker: WorkerView, *, idle_share: float | None = None, steps: Steps | None = None) -> "WorkerAnswer":
        """Return the form of a worker, with what was measured of it."""
        return cls(
            idle_share=None if idle_share is None else round(idle_share, 3),
            steps=None if steps is None else StepsAnswer(**asdict(steps)),
            name=worker.name,
            state="silent" if worker.silent_for > SILENT_SECONDS else worker.state,
            device=worker.device_name,
            model=worker.model,
            models=list(worker.models),
            batch=worker.batch,
            pictures=worker.pictures,
            rate=worker.rate,
            trouble=worker.trouble,
            threads=worker.threads,
            slots=None if worker.slots is None else SlotsAnswer(**asdict(worker.slots)),
            batch_limit=worker.batch_limit,
            limit_reason=worker.limit_reason,
            loaded=list(worker.loaded),
            silent_for=worker.silent_for,
        )


class ModelStats(BaseModel):
    """Report a model's queue and pace."""

    waiting: dict[str, int] = Field(description="Pictures by priority, counted up to 100,000 each.")
    oldest_wait: float | None = Field(description="Seconds since the render of the next picture was submitted.")
    rate: float = Field(description="Pictures a second over the last minute.")
    workers: int = Field(description="How many workers serve it now.")


class StatsAnswer(BaseModel):
    """Report the farm's queues, pace and faults."""

    models: dict[str, ModelStats] = Field(description="By the models' aliases.")
    faults: dict[str, int] = Field(description="Of the last 24 hours, by class.")


class UsageAnswer(BaseModel):
    """Report the storage that an owner's pictures take."""

    owner: str = Field(description="Whose pictures they are.")
    renders: int = Field(description="How many renders have pictures there.")
    pictures: int = Field(description="How many.")
    bytes: int = Field(description="Of their files.")
    oldest: float = Field(description="When the first picture of these renders was made, seconds since 1970.")
    oldest_time: Time = Field(description="The same as text (RFC 3339).")
    newest: float = Field(description="When the last picture of these renders was made, seconds since 1970.")
    newest_time: Time = Field(description="The same as text (RFC 3339).")


class ReadyAnswer(BaseModel):
    """Report whether the farm can render now."""

    ready: bool = Field(description="Whether everything is as it should be.")
    checks: dict[str, str] = Field(description="Each service that the farm needs: `ok`, or what is wrong.")
