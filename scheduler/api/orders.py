"""Turn a request's body into an order and the terms on which it is submitted."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from scheduler.api.access import Caller
from scheduler.api.context import ApiContext
from scheduler.api.request_bodies import RenderBody
from scheduler.intake.addresses import check_url
from scheduler.intake.admission import Terms
from scheduler.intake.order import Order
from scheduler.intake.times import is_shut, read_times
from storage.jobs.values import Webhook
from storage.rules.render_times import RenderTimes
from storage.rules.states import Priority


@contextmanager
def order_of(context: ApiContext, caller: Caller, body: RenderBody) -> Iterator[Order]:
    """Make an order of a body; its manifest is copied to this machine meanwhile.

    Raises BadSpecification with the place of what is wrong, NotFound for a manifest that is not the caller's.
    """
    _, remarks = times_of(context, body)
    if body.templates:
        order = body.order_of_templates()
        unread = order.templates.unread() if order.templates is not None else ()
        ignored = (f"wildcards: {name[:60]} stands in no template, and is not read" for name in unread)
        yield replace(order, remarks=(*remarks, *ignored))
    elif body.manifest is None:
        yield Order(requests=tuple(body.requests()), pictures_each=body.n, seed=body.seed, remarks=remarks)
    else:
        with context.manifest(caller, body.manifest, delimiter=body.delimiter) as rows:
            yield Order(manifest=rows, defaults=body.shared(), pictures_each=body.n, seed=body.seed, remarks=remarks)


def times_of(context: ApiContext, body: RenderBody) -> tuple[RenderTimes | None, tuple[str, ...]]:
    """Return when a body may be rendered, and remarks on that. Raises BadSpecification."""
    if body.not_before is None and body.window is None:
        return None, ()
    times, remarks = read_times(body.not_before, body.window, body.timezone or "UTC", now=context.schedules.now())
    zone = () if body.timezone is not None else ("timezone: UTC, since none was given",)
    return times, (*zone, *remarks)


def terms_of(context: ApiContext, caller: Caller, body: RenderBody, *, idempotency_key: str | None = None) -> Terms:
    """Return how a body is to be submitted. Raises BadSpecification for a webhook that may not be called."""
    webhook = body.webhook
    if webhook is not None:
        check_url(webhook.url, allow_private=context.services.settings.webhook_private)
    times, _ = times_of(context, body)
    return Terms(
        times=times,
        held=times is not None and is_shut(times, context.schedules.now()),
        priority=Priority[body.priority.upper()],
        idempotency_key=idempotency_key,
        request_hash=None if idempotency_key is None else _hash(context, caller, body),
        webhook=Webhook(url=webhook.url, events=tuple(webhook.events)) if webhook else None,
        watched=True,
        name=body.name,
        note=body.note,
    )


def hash_of(said: Mapping[str, Any]) -> str:
    """Return a hash that is equal for equal requests, such as a retry by the client."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _hash(context: ApiContext, caller: Caller, body: RenderBody) -> str:
    # A dry run of a request is told what the request would be told.
    said = body.model_dump(mode="json", exclude_unset=True, exclude={"dry_run"})
    if body.manifest is not None:
        # The content: a file that was uploaded twice has two ids.
        said["manifest"] = context.files.file(caller.sees, body.manifest).object
    return hash_of(said)
