"""Store orders for schedules, independent of the machine and the files that they came from."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.manifests import Manifest
from scheduler.intake.order import Order
from scheduler.intake.pace import work
from scheduler.intake.requests import SourcedRequest, at
from scheduler.intake.sources import opened_at_firing
from scheduler.intake.specify import draw_seed
from scheduler.intake.submit import Intake, specified
from scheduler.intake.templates import Templates
from scheduler.intake.uploads import MAX_BYTES, stored_inputs, with_references
from storage.access.uploads import Uploads
from storage.errors import BadSpecification, InvalidInput
from storage.jobs.values import Webhook
from storage.objects.inputs import copy_input
from storage.objects.store import ObjectStore
from storage.renders.schedules import Schedule
from storage.rules.states import PRIORITY_NAMES, Priority, PriorityName
from storage.settings import Settings
from storage.spec.picture import Request

#: How many prompts are shown of an order.
_SHOWN = 3
_INPUTS = {"control_images", "prompt_embeds"}


class StoredOrder(BaseModel):
    """Hold what a schedule renders, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The prompts and the rows of files, as a stored object of JSON lines.
    rows: str | None = None
    #: A prompt file that is read anew at each firing instead, as `KeptSource` has it.
    source: str | None = None
    source_kind: str | None = None
    source_delimiter: str | None = None
    templates: Templates | None = None
    defaults: dict[str, Any] = {}
    in_step: dict[str, list[Any]] = {}
    combined: dict[str, list[Any]] = {}
    pictures_each: int = 1
    #: Of every run; None: drawn for each run.
    seed: int | None = None
    #: How many pictures it had when it was checked last.
    pictures: int
    #: The first prompts of these.
    shown: tuple[str, ...] = ()
    #: Model → `scheduler.intake.pace.work` of these; None: an earlier version has not weighed them.
    work: dict[str, int] | None = None
    priority: PriorityName = "normal"
    #: The API key that it was added with.
    key_id: str | None = None
    #: Whether its events are recorded.
    watched: bool = False
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()
    #: Of each of its renders.
    name: str | None = None
    note: str | None = None
    #: How whoever added it reaches the API.
    api_url: str | None = None

    #: What was remarked when it was checked.
    remarks: tuple[str, ...] = ()

    @property
    def kept_source(self) -> "KeptSource | None":
        """The file that is read anew at each firing, if one is."""
        if self.source is None:
            return None
        return KeptSource(source=self.source, kind=self.source_kind, delimiter=self.source_delimiter)

    @property
    def reads_local_file(self) -> bool:
        """Whether its prompts are read from a file of this machine, whose rows may name others beside it."""
        return self.source is not None and not self.source.startswith("s3://")

    def remarked(self, remarks: Iterable[str]) -> "StoredOrder":
        """Return it with remarks on its plan, before those on its pictures."""
        return self.model_copy(update={"remarks": (*remarks, *self.remarks)})

    def terms(self, *, held: bool) -> Terms:
        """Return how each firing is submitted."""
        webhook = Webhook(url=self.webhook_url, events=self.webhook_events) if self.webhook_url else None
        return Terms(
            priority=Priority[self.priority.upper()],
            watched=self.watched,
            webhook=webhook,
            held=held,
            name=self.name,
            note=self.note,
        )


@dataclass(frozen=True, kw_only=True)
class KeptSource:
    """A prompt file that is read anew at each firing, its format and delimiter, if name and header do not tell."""

    #: An absolute path, or s3://bucket/key.
    source: str
    kind: str | None = None
    delimiter: str | None = None


def store_order(
    intake: Intake,
    submitter: Submitter,
    order: Order,
    terms: Terms,
    *,
    same_seeds: bool,
    source: KeptSource | None = None,
) -> StoredOrder:
    """Check an order whole, and store all that it needs. Raises InvalidInput with the place of what is wrong.

    Args:
        source: what the order's manifest was read from, and is to be read from again.
    """
    if named := _INPUTS & {*order.in_step, *order.combined}:
        raise BadSpecification(f"{min(named)}: not allowed as a list in a schedule; use the rows of a prompt file")
    checked = specified(intake, submitter, order)
    weight: Counter[str] = Counter()
    shown: dict[str, None] = {}
    for one in checked:
        if len(shown) < _SHOWN:
            shown[one.spec.prompt] = None
        weight[one.spec.model] += work(one.spec, intake.registry[one.spec.model])
    if not checked.total:
        raise BadSpecification("nothing to render: no prompt was given")
    seed = draw_seed() if same_seeds and order.seed is None else order.seed
    return StoredOrder(
        rows=_kept_rows(order, intake.uploads, submitter) if source is None else None,
        source=source.source if source is not None else None,
        source_kind=source.kind if source is not None else None,
        source_delimiter=source.delimiter if source is not None else None,
        templates=order.templates,
        defaults=_kept_defaults(order, intake.uploads, submitter),
        in_step={name: [*values] for name, values in order.in_step.items()},
        combined={name: [*values] for name, values in order.combined.items()},
        pictures_each=order.pictures_each,
        seed=seed if same_seeds else None,
        pictures=checked.total,
        work=dict(weight),
        shown=tuple(shown),
        priority=PRIORITY_NAMES[terms.priority],
        key_id=submitter.key_id,
        watched=terms.watched,
        webhook_url=terms.webhook.url if terms.webhook else None,
        webhook_events=terms.webhook.events if terms.webhook else (),
        name=terms.name,
        note=terms.note,
        api_url=submitter.api_url,
        remarks=tuple(checked.remarks),
    )


def kept_order(schedule: Schedule) -> StoredOrder:
    """Return what a schedule renders. Raises InvalidInput if this version of the farm cannot read it."""
    try:
        return StoredOrder.model_validate(schedule.order)
    except ValidationError:
        raise InvalidInput(
            "the schedule was added by another version of the farm; remove it and add it again"
        ) from None


@contextmanager
def restored_order(kept: StoredOrder, objects: ObjectStore, settings: Settings, *, name: str) -> Iterator[Order]:
    """Restore the order, with random prompts drawn anew unless its seed is kept, and a file that it names read anew.

    Raises NotFound if rows are lost, InvalidInput if the file cannot be read, ObjectStoreProblem.
    """
    seed = draw_seed() if kept.seed is None else kept.seed
    templates = kept.templates.model_copy(update={"seed": seed}) if kept.templates is not None else None
    with _manifest_of(kept, objects, settings, name=name) as manifest:
        yield Order(
            manifest=manifest,
            templates=templates,
            defaults=kept.defaults,
            in_step=kept.in_step,
            combined=kept.combined,
            pictures_each=kept.pictures_each,
            seed=seed,
        )


@contextmanager
def _manifest_of(
    kept: StoredOrder, objects: ObjectStore, settings: Settings, *, name: str
) -> Iterator[Manifest | None]:
    if (source := kept.kept_source) is not None:
        with opened_at_firing(source.source, settings, kind=source.kind, delimiter=source.delimiter) as manifest:
            yield manifest
        return
    with tempfile.NamedTemporaryFile(prefix="farm-schedule-") as file:
        if kept.rows is None:
            yield None
            return
        copy_input(objects, kept.rows, file)
        yield Manifest(path=Path(file.name), kind="jsonl", shown=f"prompts of the schedule {name}", folder=Path())


def _kept_rows(order: Order, uploads: Uploads, submitter: Submitter) -> str | None:
    known = stored_inputs(uploads, order.rows(), submitter)
    with tempfile.TemporaryFile() as file:
        for one in with_references(order.rows(), known):
            for request in _each_copy(one, order.pictures_each):
                file.write(json.dumps(fields_of(request), ensure_ascii=False).encode() + b"\n")
            if file.tell() > MAX_BYTES:
                raise BadSpecification(f"prompts of a schedule larger than {MAX_BYTES // 2**20} MB")
        return uploads.keep(file, submitter.uploader) if file.tell() else None


def _each_copy(one: SourcedRequest, pictures_each: int) -> Iterator[Request]:
    """Yield a row as often as it says that there are pictures of it: the rows of a schedule do not say."""
    request, copies = one.request, one.copies or 1
    if one.copies is not None and pictures_each > 1:
        wrong = BadSpecification("a row that says how many pictures, and -n for all of them, exclude each other")
        raise at(one.where, wrong)
    for copy in range(copies):
        own = {"seed": request.seed + copy} if request.seed is not None else {}
        name = {"custom_id": f"{request.custom_id}-{copy}"} if request.custom_id is not None and copies > 1 else {}
        yield request.model_copy(update={**own, **name})


def fields_of(request: Request) -> Mapping[str, Any]:
    beside = {"custom_id": request.custom_id, "labels": request.labels}
    return {**request.asked(), **{name: value for name, value in beside.items() if value is not None}}


def _kept_defaults(order: Order, uploads: Uploads, submitter: Submitter) -> dict[str, Any]:
    asked = [SourcedRequest("options", Request.parse({"prompt": "-", **order.defaults}))]
    [one] = with_references(asked, stored_inputs(uploads, asked, submitter))
    return {name: value for name, value in one.request.asked().items() if name != "prompt"}
