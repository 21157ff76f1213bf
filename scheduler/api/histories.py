"""The route of a picture's history: what became of each attempt, with what it was rendered, and how long it took."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from scheduler.api.access import CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.parameters import JobId
from scheduler.api.problems import RESPONSES
from storage.fleet.fault_log import FaultLog, FaultView
from storage.renders.batch_views import BatchView, mates
from storage.renders.views import JobView
from storage.rules.times import Time, rfc3339

router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=JsonRoute)


class MetFaultForm(BaseModel):
    """Describe a fault that a job met."""

    at: float = Field(description="When, seconds since 1970.")
    time: Time = Field(description="The same as text (RFC 3339).")
    fault: str = Field(description="Its class.")
    worker: str | None = Field(description="Who met it.")
    attempt: int | None = Field(description="Which attempt of the job it was.")
    message: str = Field(description="What it said.")

    @classmethod
    def of(cls, fault: FaultView) -> "MetFaultForm":
        """Return the form of a fault."""
        said = {name: getattr(fault, name) for name in ("at", "fault", "worker", "attempt", "message")}
        return cls(**said, time=rfc3339(fault.at))


class BatchForm(BaseModel):
    """Describe what was rendered together."""

    id: str = Field(description="Of the batch.")
    worker: str = Field(description="Who rendered it.")
    pictures: int = Field(description="How many pictures it has, of all owners.")
    jobs: list[str] = Field(
        description="Those of them that you may see, in the order in which they were rendered; without deleted ones."
    )
    device_seconds: float = Field(description="How long the device worked for all of them.")
    denoising_seconds: float = Field(description="From the first of their steps to the last.")
    store_seconds: float | None = Field(
        description="From then until they were stored and recorded; null: it was not noted."
    )
    finished_at: float = Field(description="When it was recorded, seconds since 1970.")
    finished_time: Time = Field(description="The same as text (RFC 3339).")

    @classmethod
    def of(cls, batch: BatchView, visible: list[str]) -> "BatchForm":
        """Return the form of a batch; `visible`: the ids of its pictures that may be told."""
        return cls(
            id=batch.id,
            worker=batch.worker,
            pictures=len(batch.job_row_ids),
            jobs=visible,
            device_seconds=batch.render_seconds,
            denoising_seconds=batch.render_seconds if batch.elapsed_seconds is None else batch.elapsed_seconds,
            store_seconds=batch.store_seconds,
            finished_at=batch.finished_at,
            finished_time=rfc3339(batch.finished_at),
        )


class HistoryAnswer(BaseModel):
    """Report what became of a job so far."""

    id: str = Field(description="Of the job.")
    attempt: int = Field(description="How many attempts are counted against it.")
    max_attempts: int = Field(description="After how many a picture is not tried again.")
    submitted_at: float = Field(description="When its render was accepted, seconds since 1970.")
    submitted_time: Time = Field(description="The same as text (RFC 3339).")
    started_at: float | None = Field(description="When a worker took it last, seconds since 1970.")
    started_time: Time | None = Field(description="The same as text (RFC 3339).")
    finished_at: float | None = Field(description="When it was done, failed or cancelled, seconds since 1970.")
    finished_time: Time | None = Field(description="The same as text (RFC 3339).")
    faults: list[MetFaultForm] = Field(description="What went wrong with it, newest first.")
    batch: BatchForm | None = Field(description="With what it was rendered; null: it was not, or that is deleted.")


@router.get("/jobs/{job_id}/history", tags=["jobs"])
def get_history_of_job(
    context: Context,
    job_id: JobId,
    caller: CanRead,
    limit: Annotated[int, Query(ge=0, le=1000, description="How many faults to list.")] = 50,
) -> HistoryAnswer:
    """Return what became of a job so far: the faults of its attempts, its batch, and when was what."""
    job = context.job(caller, job_id)
    submitted = context.render(caller, job.render_id).created_at
    return HistoryAnswer(
        id=job.id,
        attempt=job.attempt,
        max_attempts=context.services.settings.retry_policy.max_attempts,
        submitted_at=submitted,
        submitted_time=rfc3339(submitted),
        started_at=job.started_at,
        started_time=rfc3339(job.started_at),
        finished_at=job.finished_at,
        finished_time=rfc3339(job.finished_at),
        faults=[MetFaultForm.of(one) for one in FaultLog(context.services.database).of_job(job.row_id, limit=limit)],
        batch=_batch(context, job, caller.sees),
    )


def _batch(context: Context, job: JobView, sees: str | None) -> BatchForm | None:
    if job.batch_id is None:
        return None
    found = context.views.batches([job.batch_id]).get(job.batch_id)
    return None if found is None else BatchForm.of(found, mates(context.services.database, found, owner=sees))
