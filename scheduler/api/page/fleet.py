"""Pages of the farm itself: workers, faults and usage."""

from typing import Annotated

from fastapi import Query, Request, Response

from scheduler.api import operators as api
from scheduler.api.access import Caller
from scheduler.api.context import ApiContext, Context
from scheduler.api.fleet import get_usage, list_workers
from scheduler.api.page.serving import go_to, html, page_router
from scheduler.api.page.visitors import Operator, Overseer, Visitor
from scheduler.api.page.words import counted
from storage.access.keys import Role
from storage.access.quotas import Quotas
from storage.renders.device_time import MOST_BATCHES

_SHOWN_FAULTS = 100

router = page_router()


@router.get("/workers")
def show_workers(request: Request, context: Context, caller: Visitor) -> Response:
    """Show the workers; to an admin also their last faults and quarantines."""
    place = context.farm_followers.place
    workers, admin = list_workers(context, caller), caller.role is Role.ADMIN
    faults = api.list_faults(context, caller, limit=1000) if admin else None
    last = {fault.worker: fault for fault in reversed(faults.latest)} if faults else {}
    quarantines = faults.quarantines if faults else []
    return html(request, "workers.html", place=place, workers=workers, last=last, quarantines=quarantines)


@router.post("/workers/{worker}/end-quarantine")
def release(request: Request, context: Context, worker: str, caller: Operator) -> Response:
    """End a worker's quarantines."""
    answer = api.release_worker(context, worker, caller)
    said = f"{counted(answer.released, 'quarantine')} of {worker} ended." if answer.released else "It is in none."
    return go_to(request, "/workers", said)


@router.get("/faults")
def show_faults(
    request: Request, context: Context, caller: Overseer, days: Annotated[int, Query(ge=1, le=90)] = 1
) -> Response:
    """Show recent faults, by class and one by one."""
    faults = api.list_faults(context, caller, days * 86_400.0, 1000)
    # What each last said, where that is among the latest thousand.
    last_words = {(fault.fault, fault.model, fault.worker): fault.message for fault in reversed(faults.latest)}
    return html(request, "faults.html", faults=faults, last_words=last_words, days=days, shown=_SHOWN_FAULTS)


@router.get("/usage")
def show_usage(
    request: Request, context: Context, caller: Visitor, hours: Annotated[int, Query(ge=1, le=720)] = 1
) -> Response:
    """Show whose pictures wait, and take how much space; and what is used up of the visitor's limits."""
    used = None if caller.key_id is None else Quotas(context.services.database).used(caller.key_id, caller.limits)
    told = Response()
    device_time = api.get_device_time(context, caller, told, hours * 3600.0)
    return html(
        request,
        "usage.html",
        usage=get_usage(context, caller),
        backlog=api.get_backlog(context, caller),
        device_time=device_time,
        read_since=told.headers.get("Read-Since"),
        hours=hours,
        most_batches=MOST_BATCHES,
        limits=caller.limits,
        used=used,
        keys=_limited_keys(context, caller),
    )


def _limited_keys(context: ApiContext, caller: Caller) -> list[api.KeyForm]:
    """Return, to an admin, the keys that are in force and have limits."""
    if caller.role is not Role.ADMIN:
        return []
    in_force = [key for key in api.list_keys(context, caller) if key.revoked_at is None]
    return [key for key in in_force if any(most is not None for most in key.limits.model_dump().values())]
