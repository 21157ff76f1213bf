"""A render and a job as JSON: the one form of `--json`, the HTTP API, the client, server-sent events and webhooks.

Events tell of a render or a job by some of these fields, under these names (`storage.events.log`).
"""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from storage.renders.views import JobView, RenderView
from storage.rules.faults import Fault
from storage.rules.states import PRIORITY_NAMES, Priority, PriorityName, RenderState, State
from storage.rules.times import Time, rfc3339
from storage.spec.picture import Spec


class RenderForm(BaseModel):
    """Describe a render."""

    id: str = Field(description="How addresses and commands name it.", examples=["k7m2p9x4tq8z"])
    state: RenderState = Field(
        description="waiting: none of its pictures is on a device now; the last three are final."
    )
    owner: str = Field(description="Whose it is.")
    priority: PriorityName = Field(description="Higher priorities are rendered first.")
    total: int = Field(description="How many pictures it has; those not done, failed or cancelled are still to come.")
    done: int = Field(description="How many pictures are rendered.")
    failed: int = Field(description="How many pictures have failed.")
    cancelled: int = Field(description="How many pictures were cancelled.")
    created_at: float = Field(description="When it was accepted, seconds since 1970.")
    created_time: Time = Field(description="The same as text (RFC 3339).")
    finished_at: float | None = Field(
        description="When the last picture was finished, seconds since 1970; null until then."
    )
    finished_time: Time | None = Field(description="The same as text (RFC 3339).")
    not_before: float | None = Field(
        None, description="It is not rendered before then; seconds since 1970. Null: at once."
    )
    window: str | None = Field(None, description="It is rendered only at these times of day. Null: at any time.")
    timezone: str | None = Field(None, description="Of the window; null where it has no times of its own.")
    name: str | None = Field(None, description="What its owner calls it.")
    note: str | None = Field(None, description="What its owner says of it.")
    models: list[str] = Field(default_factory=list, description="The models of its pictures, by alias.")
    position: int | None = Field(
        None, description="How many pictures of the model are ahead of this render's next one, if known."
    )
    seconds_left: float | None = Field(
        None, description="Estimated from the pace of recent batches, if known; null while held."
    )
    why: str | None = Field(
        None,
        description="What it waits for, in a sentence; null in lists, once it is finished, and while one of its "
        "pictures is being rendered.",
        examples=["no worker serves sdxl; 2 workers now, serving shapes"],
    )

    @classmethod
    def of(cls, render: RenderView, **more: Any) -> "RenderForm":
        """Return the form of a render; `more`: `position`, `seconds_left` and `why`, where somebody has asked."""
        return RenderForm(
            id=render.id,
            state=render.state,
            owner=render.owner,
            priority=PRIORITY_NAMES[Priority(render.priority)],
            total=render.total,
            done=render.done,
            failed=render.failed,
            cancelled=render.cancelled,
            created_at=render.created_at,
            created_time=rfc3339(render.created_at),
            finished_at=render.finished_at,
            **({} if render.times is None else asdict(render.times)),
            name=render.name,
            note=render.note,
            models=list(render.models),
            finished_time=rfc3339(render.finished_at),
            **more,
        )


class ExamplePicture(BaseModel):
    """Show a picture of a dry run as it would be rendered, after templates and defaults."""

    prompt: str = Field(description="What to draw.")
    negative_prompt: str = Field(description="What to steer away from.")
    model: str = Field(description="The alias of its model.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")

    @classmethod
    def of(cls, spec: Spec) -> "ExamplePicture":
        """Return the example of a specification."""
        return ExamplePicture.model_validate({name: getattr(spec, name) for name in ExamplePicture.model_fields})


class JobForm(BaseModel):
    """Describe a job: one picture."""

    id: str = Field(description="The render's id, and its index.", examples=["k7m2p9x4tq8z-000012"])
    render: str = Field(description="The id of its render.")
    index: int = Field(description="Its position in the render, from 0.")
    state: State = Field(description="How it stands.")
    seed: int = Field(description="What its picture is made from; drawn, if none was given.")
    prompt: str = Field(description="What to draw; empty where embeddings replace it.")
    model: str = Field(description="The alias of its model.")
    progress: float = Field(description="0 to 1.")
    position: int | None = Field(None, description="How many pictures are ahead of this one, if known.")
    attempt: int = Field(description="How often it was started; some faults do not count.")
    worker: str | None = Field(description="The last worker that had it.")
    started_at: float | None = Field(description="When it was started last, seconds since 1970.")
    started_time: Time | None = Field(description="The same as text (RFC 3339).")
    finished_at: float | None = Field(description="When it was done, failed or cancelled, seconds since 1970.")
    finished_time: Time | None = Field(description="The same as text (RFC 3339).")
    image: str | None = Field(description="Path of the picture in the API, once it is done.")
    object: str | None = Field(description="Key of the picture in the object store, once it is done.")
    sha256: str | None = Field(description="Of the picture's file.")
    pixels_sha256: str | None = Field(
        None, description="Of the picture's pixels, as `storage/README.md` says: equal for equal pictures."
    )
    bytes: int | None = Field(description="Of the picture's file.")
    remarks: list[str] = Field(
        default_factory=list, description="What its worker says of it, such as which words the model does not read."
    )
    fault: Fault | None = Field(description="The class of what went wrong last.")
    error: str | None = Field(description="What went wrong last.")
    custom_id: str | None = Field(None, description="The caller's own name for it.")
    labels: dict[str, Any] | None = Field(None, description="The caller's own data about it.")
    spec: dict[str, Any] | None = Field(
        None, description="The complete specification, defaults filled in; null in lists."
    )
    made_with: dict[str, Any] | None = Field(
        None, description="Weights, versions and device that made it; null in lists."
    )

    @classmethod
    def of(cls, job: JobView, **more: Any) -> "JobForm":
        """Return the form of a job; `more`: `progress`, `position`, `spec` and `made_with`, where asked for."""
        done = job.state is State.DONE
        return JobForm(
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
            started_time=rfc3339(job.started_at),
            finished_at=job.finished_at,
            finished_time=rfc3339(job.finished_at),
            image=f"/v1/jobs/{job.id}/image" if done else None,
            object=job.object,
            sha256=job.sha256,
            pixels_sha256=job.pixels_sha256,
            remarks=list(job.remarks),
            bytes=job.bytes,
            fault=job.fault,
            error=job.error,
            **more,
        )
