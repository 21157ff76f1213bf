"""What has changed of the farm since the last look: renders, their pictures, workers, and what is left to render."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.api.response_models import WorkerAnswer
from scheduler.api.waiting.farm_log import News
from scheduler.results.json_forms import RenderForm
from storage.database.connection import Database
from storage.events.log import Event, EventLog, event_fields
from storage.fleet.workers import Workers
from storage.renders.backlog import Backlog, LeftToRender
from storage.renders.followed import Followed
from storage.renders.standings import RenderStandings, Standing, Standings
from storage.rules.states import PRIORITY_NAMES
from storage.rules.times import rfc3339

#: Of one look; of more, whoever follows is told to read everything anew.
_MOST_RENDERS = 500
#: Events of a render that one look tells of; who needs those before asks for them (`/v1/renders/ID/events`).
_MOST_EVENTS = 100

#: By name, without what changes by the clock alone.
_Workers = Mapping[str, str]
#: By owner; None: everybody's.
_Backlogs = Mapping[str | None, str]


@dataclass(frozen=True, kw_only=True)
class FarmSeen:
    """The farm as it was seen last."""

    standings: Standings
    workers: _Workers
    backlogs: _Backlogs
    #: Whether pictures' events were looked for.
    with_jobs: bool


@dataclass(frozen=True, kw_only=True)
class FarmChange:
    """The farm as it is seen now, and the news; None: too much to tell, or it was not seen before."""

    seen: FarmSeen
    news: list[News] | None


class FarmChanges:
    """Looks at the farm: five statements, and three more where something has changed."""

    def __init__(self, database: Database) -> None:
        self._standings = RenderStandings(database)
        self._rows = Followed(database)
        self._events = EventLog(database)
        self._backlog = Backlog(database)
        self._workers = Workers(database)

    def since(self, before: FarmSeen | None, *, with_jobs: bool) -> FarmChange:
        """Look, and return what has changed; `with_jobs`: also what happened to single pictures."""
        standings = self._standings.now(since=None if before is None else before.standings.at)
        workers = {worker.name: _worker(WorkerAnswer.of(worker)) for worker in self._workers.all()}
        changed = _changed(before, standings)
        backlogs = _backlogs(self._backlog.left()) if before is None or changed else before.backlogs
        seen = FarmSeen(standings=standings, workers=workers, backlogs=backlogs, with_jobs=with_jobs)
        if before is None or len(changed) > _MOST_RENDERS or (with_jobs and not before.with_jobs):
            return FarmChange(seen=seen, news=None)
        news = [*self._told_renders(changed, before.standings.renders)]
        if with_jobs:
            news += self._told_jobs(changed, before.standings.renders, standings.renders)
        news += _told_workers(before.workers, workers)
        news += _told_backlogs(before.backlogs, backlogs)
        return FarmChange(seen=seen, news=news)

    def _told_renders(self, changed: Collection[str], before: Mapping[str, Standing]) -> Iterator[News]:
        there = self._rows.renders(changed) if changed else {}
        for render_id in changed:
            if (row := there.get(render_id)) is not None:
                data = json.dumps({**RenderForm.of(row.view).model_dump(mode="json"), "events": row.events})
                yield News(topic="renders", kind="render", data=data, owner=row.view.owner)
            elif render_id in before:
                data, owner = json.dumps({"id": render_id}), before[render_id].owner
                yield News(topic="renders", kind="render.deleted", data=data, owner=owner)

    def _told_jobs(
        self, changed: Collection[str], before: Mapping[str, Standing], now: Mapping[str, Standing]
    ) -> Iterator[News]:
        numbers: list[tuple[str, int]] = []
        for render_id in changed:
            last = now[render_id].events if render_id in now else 0
            told = before[render_id].events if render_id in before else 0
            numbers += ((render_id, seq) for seq in range(max(told, last - _MOST_EVENTS) + 1, last + 1))
        found = self._events.these(numbers) if numbers else {}
        for render_id, events in found.items():
            owner = now[render_id].owner
            yield from (News(topic="jobs", kind=one.kind, data=_event(render_id, one), owner=owner) for one in events)


def _changed(before: FarmSeen | None, now: Standings) -> list[str]:
    """Return the renders that stand otherwise; one that is finished, and no longer looked at, does."""
    then = {} if before is None else before.standings.renders
    changed = [render_id for render_id, standing in now.renders.items() if then.get(render_id) != standing]
    return changed + [name for name, one in then.items() if not one.finished and name not in now.renders]


def _told_workers(before: _Workers, now: _Workers) -> Iterator[News]:
    for name, data in now.items():
        if before.get(name) != data:
            yield News(topic="workers", kind="worker", data=data)
    for name in before.keys() - now.keys():
        yield News(topic="workers", kind="worker.gone", data=json.dumps({"name": name}))


def _told_backlogs(before: _Backlogs, now: _Backlogs) -> Iterator[News]:
    for owner in sorted(before.keys() | now.keys(), key=str):
        if before.get(owner, "[]") != now.get(owner, "[]"):
            data = now.get(owner, "[]")
            yield News(topic="backlog", kind="backlog", data=data, owner=owner or "", admins=owner is None)


def _backlogs(left: Collection[LeftToRender]) -> dict[str | None, str]:
    by_owner: defaultdict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for one in left:
        told = {
            "owner": one.owner,
            "priority": PRIORITY_NAMES[one.priority],
            "models": list(one.models),
            "held": one.held,
            "renders": one.renders,
            "pictures": one.pictures,
        }
        for owner in (one.owner, None):
            by_owner[owner].append(told)
    return {owner: json.dumps(told) for owner, told in by_owner.items()}


def _worker(worker: WorkerAnswer) -> str:
    return json.dumps(worker.model_dump(mode="json", exclude={"silent_for"}))


def _event(render_id: str, event: Event) -> str:
    fields = event_fields(render_id, event.index, event.data)
    told = {"seq": event.seq, "at": event.at, "time": rfc3339(event.at), **fields}
    return json.dumps(told, ensure_ascii=False)
