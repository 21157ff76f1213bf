"""Orders as schedules keep them: independent of the machine and the files that they came from."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from scheduler.intake.manifests import Manifest
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest
from scheduler.intake.submit import draw_seed
from scheduler.intake.templates import Templates
from scheduler.intake.uploads import MAX_BYTES, upload_all, with_references
from storage.errors import BadSpecification
from storage.jobs.values import Submission, Webhook
from storage.objects.inputs import copy_input, put_input_file
from storage.objects.store import ObjectStore
from storage.rules.states import Priority
from storage.spec.picture import Request
from storage.spec.registry import Registry

_INPUTS = {"control_images", "prompt_embeds"}


class StoredOrder(BaseModel):
    """What a schedule renders, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The prompts and the rows of files, as a stored object of JSON lines.
    rows: str | None = None
    templates: Templates | None = None
    defaults: dict[str, Any] = {}
    in_step: dict[str, list[Any]] = {}
    combined: dict[str, list[Any]] = {}
    pictures_each: int = 1
    #: Of every firing; None: drawn for each.
    seed: int | None = None
    #: How many pictures it was when it was made.
    pictures: int
    priority: Literal["interactive", "normal", "bulk"] = "normal"
    #: The API key that it came with, and whom to tell.
    key_id: str | None = None
    #: Whether its events are written down.
    watched: bool = False
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()

    def submission(self, owner: str, *, held: bool) -> Submission:
        webhook = Webhook(url=self.webhook_url, events=self.webhook_events) if self.webhook_url else None
        return Submission(
            owner=owner,
            priority=Priority[self.priority.upper()],
            key_id=self.key_id,
            watched=self.watched,
            webhook=webhook,
            held=held,
        )


@dataclass(frozen=True, kw_only=True)
class SubmissionTerms:
    """How it is submitted each time."""

    priority: str = "normal"
    same_seeds: bool = False
    key_id: str | None = None
    watched: bool = False
    webhook: Webhook | None = None


def store_order(order: Order, terms: SubmissionTerms, registry: Registry, objects: ObjectStore) -> StoredOrder:
    """Check an order whole, and store all that it needs. Raises InvalidInput with the place of what is wrong."""
    if named := _INPUTS & {*order.in_step, *order.combined}:
        raise BadSpecification(f"{min(named)}: not as a list of values in a schedule; name it in rows of a prompt file")
    pictures = sum(1 for _ in order.wanted(registry, objects))
    if not pictures:
        raise BadSpecification("nothing to render: no prompt was given")
    seed = order.seed
    if terms.same_seeds and seed is None:
        seed = draw_seed()
    return StoredOrder(
        rows=_kept_rows(order, objects),
        templates=order.templates,
        defaults=_kept_defaults(order, objects),
        in_step={name: [*values] for name, values in order.in_step.items()},
        combined={name: [*values] for name, values in order.combined.items()},
        pictures_each=order.pictures_each,
        seed=seed if terms.same_seeds else None,
        pictures=pictures,
        priority=terms.priority,
        key_id=terms.key_id,
        watched=terms.watched,
        webhook_url=terms.webhook.url if terms.webhook else None,
        webhook_events=terms.webhook.events if terms.webhook else (),
    )


@contextmanager
def restored_order(kept: StoredOrder, objects: ObjectStore, *, name: str) -> Iterator[Order]:
    """The order once more, its random prompts drawn anew unless its seed is kept. Raises NotFound if rows are lost."""
    seed = draw_seed() if kept.seed is None else kept.seed
    templates = kept.templates.model_copy(update={"seed": seed}) if kept.templates is not None else None
    with tempfile.NamedTemporaryFile(prefix="farm-schedule-") as file:
        manifest = None
        if kept.rows is not None:
            copy_input(objects, kept.rows, file)
            manifest = Manifest(
                path=Path(file.name), kind="jsonl", shown=f"prompts of the schedule {name}", folder=Path()
            )
        yield Order(
            manifest=manifest,
            templates=templates,
            defaults=kept.defaults,
            in_step=kept.in_step,
            combined=kept.combined,
            pictures_each=kept.pictures_each,
            seed=seed,
        )


def _kept_rows(order: Order, objects: ObjectStore) -> str | None:
    known = upload_all(objects, order.rows())
    with tempfile.TemporaryFile() as file:
        for _, request in with_references(order.rows(), known):
            file.write(json.dumps(_fields(request), ensure_ascii=False).encode() + b"\n")
            if file.tell() > MAX_BYTES:
                raise BadSpecification(f"a schedule keeps at most {MAX_BYTES // 2**20} MB of prompts")
        return put_input_file(objects, file) if file.tell() else None


def _fields(request: Request) -> Mapping[str, Any]:
    beside = {"custom_id": request.custom_id, "labels": request.labels}
    return {**request.asked(), **{name: value for name, value in beside.items() if value is not None}}


def _kept_defaults(order: Order, objects: ObjectStore) -> dict[str, Any]:
    asked = [SourcedRequest("options", Request.parse({"prompt": "-", **order.defaults}))]
    [(_, request)] = with_references(asked, upload_all(objects, asked))
    return {name: value for name, value in request.asked().items() if name != "prompt"}
