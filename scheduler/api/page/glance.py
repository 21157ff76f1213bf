"""The farm in one word and one sentence, and what is left to render: read once for all who look at the same moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.page.looks import SharedLook
from scheduler.api.page.words import counted, duration
from scheduler.api.response_models import WorkerAnswer
from scheduler.results.backlog import BacklogForm, backlog
from scheduler.results.fleet_seen import FleetSeen
from scheduler.results.why import what_hinders


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What the front page says of the farm."""

    word: str
    sentence: str
    workers: Sequence[WorkerAnswer]
    #: Of the visitor's renders or, for an admin, of everybody's.
    backlog: Sequence[BacklogForm]

    @property
    def waits_longest(self) -> BacklogForm | None:
        """What was submitted first of what is not held."""
        waiting = [one for one in self.backlog if not one.held]
        return max(waiting, key=lambda one: one.oldest_wait, default=None)


def glance(context: ApiContext, caller: Caller, look: SharedLook) -> Glance:
    """Return what a visitor sees of the farm."""
    return look.once(("glance", caller.sees), lambda: _glance(context, caller.sees, look))


def _glance(context: ApiContext, sees: str | None, look: SharedLook) -> Glance:
    fleet = FleetSeen(context.services, look.once)
    # Their heartbeats alone: how idle they were is for the page of workers.
    workers = [WorkerAnswer.of(worker) for worker in fleet.workers]
    left = backlog(context.services, owner=sees, fleet=fleet)
    word, sentence = _words(fleet, workers, [one for one in left if not one.held])
    return Glance(word=word, sentence=sentence, workers=workers, backlog=left)


def _words(fleet: FleetSeen, workers: Sequence[WorkerAnswer], left: Sequence[BacklogForm]) -> tuple[str, str]:
    alive = [worker for worker in workers if worker.state != "silent"]
    crew = _fleet(alive)
    pictures = sum(one.pictures for one in left)
    if not pictures:
        word = "rendering" if any(worker.state == "rendering" for worker in alive) else "idle"
        return (word, f"{crew}; nothing waits") if alive else ("no worker", "no worker runs, and nothing waits")
    amount = f"{counted(pictures, 'picture')} left, {_time(left)}"
    hindered = [what_hinders(fleet, model) for model in dict.fromkeys(m for one in left for m in one.models)]
    reasons = [one.sentence for one in hindered if one is not None]
    if any(worker.state == "rendering" for worker in alive):
        also = f"; some wait: {reasons[0]}" if reasons else ""
        return "rendering", f"{crew}; {amount}{also}"
    if reasons:
        return "waiting", f"{reasons[0]}; {amount}"
    word = "loading" if any(worker.state == "loading" for worker in alive) else "waiting"
    return word, f"{crew}; {amount}"


def _fleet(alive: Sequence[WorkerAnswer]) -> str:
    kept_away = sum(worker.state == "quarantined" for worker in alive)
    return counted(len(alive), "worker") + (f", {kept_away} in quarantine" if kept_away else "")


def _time(left: Sequence[BacklogForm]) -> str:
    known = [one.seconds_left for one in left if one.seconds_left is not None]
    if len(known) < len(left):
        return "and how long they take is not known yet"
    return f"about {duration(sum(known))} at the present pace"
