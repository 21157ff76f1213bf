"""Run a schedule now, by hand, and tell what became of it."""

from scheduler.cron.acceptance import acceptance_of
from scheduler.cron.json_forms import RunNowForm
from scheduler.services import Services
from storage.broker.tickets import Tickets
from storage.errors import NotFound
from storage.renders.schedules import Schedule


def run_now(services: Services, tickets: Tickets | None, schedule: Schedule) -> RunNowForm:
    """Fire a schedule once, now, and return what became of that; its render is accepted, or a rule forbids it.

    Raises InvalidInput if it cannot be rendered, NotFound if the schedule was removed meanwhile.
    """
    acceptance = acceptance_of(services, tickets)
    at = acceptance.now()
    render_id = acceptance.fire_by_hand(schedule, at=at)
    # By its moment: the clock may have taken another firing meanwhile.
    fired = acceptance.schedules.history(schedule, limit=1, at=at)
    if not fired:
        raise NotFound(f"schedule {schedule.name} was removed while it was fired")
    return RunNowForm(name=schedule.name, render_id=render_id, outcome=fired[0].outcome, note=fired[0].note)
