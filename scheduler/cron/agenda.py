"""The agenda: what will run when, how long that takes at the measured pace, and what does not fit its window."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydantic import BaseModel, Field

from scheduler.cron.details import Paces
from scheduler.cron.plan import times_after
from scheduler.cron.stored_orders import kept_order
from scheduler.intake.moments import opens_at, shuts_at
from scheduler.intake.pace import serving, work
from scheduler.intake.times import starts_at
from scheduler.services import Services
from storage.errors import InvalidInput
from storage.renders.schedules import Schedule, Schedules
from storage.renders.views import RenderView
from storage.renders.windows import Windows
from storage.rules.render_times import RenderTimes
from storage.rules.times import Time, rfc3339

MOST_DAYS = 31
#: Of one schedule: one that fires each minute has 1,440 a day.
_MOST_EACH = 200


class AgendaEntry(BaseModel):
    """Describe what will run: a firing of a schedule, or a render that is held until its time."""

    kind: Literal["schedule", "render"] = Field(description="A firing, or a render that is held until its time.")
    name: str = Field(description="Of the schedule; or the render's id.")
    owner: str = Field(description="Whose it is.")
    at: float = Field(description="When it is planned for; seconds since 1970.")
    time: Time = Field(description="The same as text (RFC 3339).")
    starts_at: float = Field(description="When its window is open then; seconds since 1970.")
    starts_time: Time = Field(description="The same as text (RFC 3339).")
    timezone: str = Field(description="Where its times are meant.")
    window: str | None = Field(description="It is rendered only at these times of day; null: at any time.")
    pictures: int = Field(description="As they were counted last.")
    devices: int = Field(description="How many workers serve all its models now.")
    device_seconds: float | None = Field(description="On one device, by the pace that was measured; null: unknown.")
    seconds: float | None = Field(description="On these devices, on one if there is none now; null: unknown.")
    fits: bool | None = Field(description="Whether that is over before its window shuts; null: no window, or unknown.")
    remarks: list[str] = Field(description="What does not fit, and the like.")


class Agenda(BaseModel):
    """Describe what will run within some days."""

    since: float = Field(description="Seconds since 1970.")
    until: float = Field(description="Seconds since 1970.")
    entries: list[AgendaEntry] = Field(description="In the order in which they start.")
    remarks: list[str] = Field(description="What is left out, and why.")


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is to be rendered, and within what."""

    work: dict[str, int] | None
    pictures: int
    window: str | None
    timezone: str


class Agendas:
    """Makes agendas from the rows as they are now."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._schedules = Schedules(services.database)
        self._paces = Paces(services.registry, services.measures)
        self._devices: dict[tuple[str, ...], int] = {}

    def agenda(self, *, days: float, owner: str | None) -> Agenda:
        """Return what will run within so many days, of one owner or of all. What is paused is left out."""
        now = self._schedules.now()
        until, remarks = now + days * 86_400, list[str]()
        entries: list[AgendaEntry] = []
        for schedule in self._schedules.all(owner=owner):
            try:
                entries.extend(self._firings(schedule, now, until, remarks))
                entries.extend(self._held(schedule, now, until))
            except InvalidInput as error:
                remarks.append(f"schedule {schedule.name} cannot fire: {error}")
        for timed in Windows(self._services.database).timed(owner=owner):
            try:
                if not timed.window_open and (at := starts_at(timed.times, now)) <= until:
                    view = self._services.views.render(timed.id)
                    entries.append(self._render(view, timed.times, timed.times.not_before or at, at))
            except InvalidInput as error:
                remarks.append(f"render {timed.id} is left out: {error}")
        entries.sort(key=lambda entry: (entry.starts_at, entry.at, entry.name))
        return Agenda(since=now, until=until, entries=entries, remarks=remarks)

    def _firings(self, schedule: Schedule, now: float, until: float, remarks: list[str]) -> Iterator[AgendaEntry]:
        plan = schedule.plan
        if schedule.paused:
            remarks.append(f"schedule {schedule.name} is paused")
            return
        kept = kept_order(schedule)
        run = _Run(work=kept.work, pictures=kept.pictures, window=plan.window, timezone=plan.timezone)
        for n, at in enumerate(times_after(plan, max(now, schedule.decided_to))):
            if at > until:
                return
            if n == _MOST_EACH:
                remarks.append(f"schedule {schedule.name} fires more often: its first {_MOST_EACH} times are shown")
                return
            entry = self._entry(run, kind="schedule", name=schedule.name, owner=schedule.owner, at=at)
            entry.remarks.extend(_beyond(schedule, entry))
            yield entry

    def _held(self, schedule: Schedule, now: float, until: float) -> Iterator[AgendaEntry]:
        """Yield the renders that a schedule has fired and keeps until its window opens."""
        plan = schedule.plan
        if plan.window is None or not now < (opens := opens_at(plan.window, plan.timezone, now)) <= until:
            return
        times = RenderTimes(window=plan.window, timezone=plan.timezone)
        for render_id, held in self._schedules.unfinished_renders(schedule).items():
            if held:
                yield self._render(self._services.views.render(render_id), times, opens, opens)

    def _render(self, view: RenderView, times: RenderTimes, at: float, starts: float) -> AgendaEntry:
        weight: dict[str, int] = {}
        for job in islice(self._services.views.jobs(view.id, limit=1), 1):  # the others are like it
            if (model := self._services.registry.models.get(job.spec.model)) is not None:
                weight[job.spec.model] = work(job.spec, model) * view.remaining
        run = _Run(work=weight, pictures=view.remaining, window=times.window, timezone=times.timezone)
        return self._entry(run, kind="render", name=view.id, owner=view.owner, at=at, starts=starts)

    def _entry(
        self,
        run: _Run,
        *,
        kind: Literal["schedule", "render"],
        name: str,
        owner: str,
        at: float,
        starts: float | None = None,
    ) -> AgendaEntry:
        starts = opens_at(run.window, run.timezone, at) if starts is None else starts
        models = tuple(sorted(run.work or ()))
        devices, device_seconds = self._serving(models), self._paces.seconds(run.work)
        seconds = None if device_seconds is None else device_seconds / max(1, devices)
        left = None if run.window is None else shuts_at(run.window, run.timezone, starts) - starts
        fits = None if left is None or seconds is None else seconds <= left
        remarks = []
        if not devices and models:
            remarks.append(f"no worker serves {', '.join(models)} now")
        if fits is False:
            remarks.append(
                f"does not fit its window {run.window}: about {(seconds or 0) / 3600:.1f} h, and it is open for "
                f"{(left or 0) / 3600:.1f} h; the rest waits for the next one"
            )
        return AgendaEntry(
            kind=kind,
            name=name,
            owner=owner,
            at=at,
            time=rfc3339(at),
            starts_at=starts,
            starts_time=rfc3339(starts),
            timezone=run.timezone,
            window=run.window,
            pictures=run.pictures,
            devices=devices,
            device_seconds=device_seconds,
            seconds=seconds,
            fits=fits,
            remarks=remarks,
        )

    def _serving(self, models: Sequence[str]) -> int:
        key = tuple(models)
        if key not in self._devices:
            self._devices[key] = len(serving(self._services.workers, key)) if key else 0
        return self._devices[key]


def _beyond(schedule: Schedule, entry: AgendaEntry) -> Iterator[str]:
    limits = schedule.plan.limits
    if limits.pictures is not None and entry.pictures > limits.pictures:
        yield f"will not fire: more pictures than its limit of {limits.pictures:,} for one firing"
    minutes = None if entry.device_seconds is None else entry.device_seconds / 60
    if limits.device_minutes is not None and minutes is not None and minutes > limits.device_minutes:
        yield f"will not fire: {minutes:.1f} device minutes, and its limit is {limits.device_minutes:g} for one firing"
