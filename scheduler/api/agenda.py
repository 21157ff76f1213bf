"""The route of the agenda: what will run when."""

from typing import Annotated

from fastapi import APIRouter, Query

from scheduler.api.access import CanRead
from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.problems import RESPONSES
from scheduler.cron.agenda import MOST_DAYS, Agenda, Agendas

router = APIRouter(prefix="/v1", tags=["schedules"], responses=RESPONSES, route_class=JsonRoute)


@router.get("/agenda")
def get_agenda(
    context: Context,
    caller: CanRead,
    days: Annotated[int, Query(ge=1, le=MOST_DAYS, description="How many days to look ahead.")] = 2,
) -> Agenda:
    """Return what will run when, for how long, and what does not fit its window; with an admin key, every owner's."""
    return Agendas(context.services).agenda(days=days, owner=caller.sees)
