"""Decide how many tickets to publish: enough to wake every worker that could help, never more than a window."""

from storage.broker.tickets import Tickets
from storage.fleet.workers import Workers
from storage.jobs.jobs import Jobs
from storage.rules.states import Priority
from storage.spec.models import Model


def missing(*, waiting: int, batch: int, queued: int, most: int) -> int:
    """Return how many tickets to publish so that there is one per waiting batch, and at most `most`."""
    wanted = min(-(-waiting // batch), most)
    return max(0, wanted - queued)


def top_up(jobs: Jobs, tickets: Tickets, model: Model) -> int:
    """Publish the tickets that a model's waiting jobs lack, and return how many. Raises BrokerProblem.

    Each priority has its share of the window, less what workers hold and may put back. So there are never more than
    the window holds, whatever the backlog, and an urgent job's ticket is never crowded out. What dead workers held is
    not waited for: it comes back after Redis's visibility timeout, beyond the window, and does no harm.
    """
    share = max(1, (tickets.window - _held(jobs, tickets)) // len(Priority))
    queued = tickets.queued(model.alias)
    # What has its share already lacks none, however much waits.
    open_to_more = [priority for priority in Priority if queued[priority] < share]
    waiting = jobs.waiting_each(model.alias, open_to_more, at_most=share * model.batch)
    published = 0
    for priority, n_waiting in waiting.items():
        if n := missing(waiting=n_waiting, batch=model.batch, queued=queued[priority], most=share):
            tickets.publish(model.alias, priority, n)
            published += n
    return published


def _held(jobs: Jobs, tickets: Tickets) -> int:
    """Return how many tickets living workers hold, at most: each has one in hand."""
    in_hand = tickets.in_hand()
    return in_hand and min(in_hand, Workers(jobs.database).heard_of())
