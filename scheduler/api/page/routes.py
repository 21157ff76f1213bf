"""All routes of the page but the one at `/`, which `scheduler.api.welcome` shares with programs."""

from scheduler.api.page import fleet, front, grids, keys, ordering, pictures, renders, schedules, serving, visitors

ROUTERS = (
    serving.assets,
    visitors.router,
    front.router,
    renders.router,
    pictures.router,
    grids.router,
    ordering.router,
    fleet.router,
    schedules.router,
    keys.router,
)
